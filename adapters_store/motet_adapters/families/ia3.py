"""IA3 (arXiv 2205.05638): learnt factors on a linear's outputs, or on its inputs."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.beside import beside_sites
from motet_adapters.families.combined import combined
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.modules import targeted_linears
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_FEEDFORWARD = "feedforward_modules"

KEYS = ConfigKeys(
    served=TARGETS | {_FEEDFORWARD, "fan_in_fan_out", "modules_to_save"},
    harmless=COMMON | {"init_ia3_weights"},
)


def plan_ia3(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Factors are [N, 1] on outputs, and [1, K] on the inputs of feedforward_modules."""
    del limits
    fields.flag("fan_in_fan_out")
    on_inputs = _Inputs(fields, tensors)
    targets = targeted_linears(fields.targets(), base, tensors)
    sites = [(_input_site if on_inputs(path) else _output_site)(path, base) for path in targets]
    sites += beside_sites(fields, targets, tensors, base)
    return AdapterPlan("ia3", combined(sites, base))


class _Inputs:
    """Whether a module's factors are on its inputs. An expression is never run: shapes tell."""

    def __init__(self, fields: Fields, tensors: Mapping[str, StoredTensor]) -> None:
        self._is_expression = isinstance(fields.get(_FEEDFORWARD), str)
        self._ends = () if self._is_expression else fields.names(_FEEDFORWARD)
        self._tensors = tensors

    def __call__(self, path: str) -> bool:
        if not self._is_expression:
            return path.endswith(self._ends)
        stored = self._tensors.get(_name(path))
        return stored is not None and stored.shape[0] == 1


def _name(path: str) -> str:
    return f"{KEY_PREFIX}{path}.ia3_l"


def _output_site(path: str, base: BaseWeights) -> SitePlan:
    """(W x + b) * l: the base's bias is scaled too, so b (l - 1) is added to it."""
    out_features, _ = base.shape(path)
    parts = {"gain": PartSpec((out_features,))}
    if base.bias(path) is not None:
        parts["bias"] = PartSpec((out_features,))

    def lower(read: Read) -> Mapping[str, Tensor]:
        gain = read(_name(path)).flatten()
        bias = base.bias(path)
        return {"gain": gain} | ({} if bias is None else {"bias": bias * (gain - 1)})

    return SitePlan(path, {_name(path): (out_features, 1)}, parts, lower)


def _input_site(path: str, base: BaseWeights) -> SitePlan:
    """W (l * x) + b."""
    if base.shares_input(path):
        raise AdapterRefused(
            f"{_FEEDFORWARD} scales the inputs of {path}, which it shares with others: that is "
            "served only where a linear is alone with its input, such as down_proj. Train the "
            "others on their outputs.",
            _FEEDFORWARD,
        )
    _, in_features = base.shape(path)

    def lower(read: Read) -> Mapping[str, Tensor]:
        return {"in_gain": read(_name(path)).flatten()}

    parts = {"in_gain": PartSpec((in_features,))}
    return SitePlan(path, {_name(path): (1, in_features)}, parts, lower)


IA3 = Family(
    name="ia3",
    title="IA3",
    peft_type="IA3",
    status="served",
    formula="y = l * (W x + b), or W (l * x) + b in feedforward_modules",
    lowering="gain = l and bias = b (l - 1), or in_gain = l",
    rank_after="0",
    memory="N (2 N with a base bias), or K",
    paper_url="https://arxiv.org/abs/2205.05638",
    keys=KEYS,
    plan=plan_ia3,
)
