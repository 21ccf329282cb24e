"""adapter_config.json of the `adapters` library (1.x), whose key "config" holds a BnConfig."""

from collections.abc import Mapping
from dataclasses import dataclass

from motet_kernels.lowrank import Activation

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import ConfigKeys
from motet_adapters.names import quoted

# transformers' names (ACT2FN), which the library looks up in lower case.
_ACTIVATIONS: Mapping[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
# Whose layers the library wraps itself, handing its adapters no layer norm.
_WITHOUT_NORM = ("llama", "mistral")
_MAX_FACTOR = 1e6
_MAX_SCALE = 1e6

_KEYS = ConfigKeys(
    served=frozenset(
        {
            "architecture",
            "mh_adapter",
            "output_adapter",
            "reduction_factor",
            "non_linearity",
            "original_ln_before",
            "original_ln_after",
            "residual_before_ln",
            "scaling",
            "leave_out",
        }
    ),
    # The rest of the phm keys are of PHM layers, adapter_residual_before_ln of a norm of its own.
    harmless=frozenset(
        {
            "init_weights",
            "init_weights_seed",
            "adapter_residual_before_ln",
            "inv_adapter_reduction_factor",
            "dropout",
            "stochastic_depth",
            "phm_dim",
            "factorized_phm_W",
            "shared_W_phm",
            "shared_phm_rule",
            "factorized_phm_rule",
            "phm_c_init",
            "phm_init_range",
            "learn_phm",
            "hypercomplex_nonlinearity",
            "phm_rank",
            "phm_bias",
        }
    ),
    refused={
        "ln_before": "a layer norm inside the adapter is not served; train with ln_before=False",
        "ln_after": "a layer norm inside the adapter is not served; train with ln_after=False",
        "is_parallel": (
            "parallel adapters read the stream before the layer norm, which is not served; train "
            "with is_parallel=False"
        ),
        "use_gating": "a gate averages over the tokens of the sequence; train without use_gating",
        "inv_adapter": (
            "invertible adapters behind the embedding are not served; train without inv_adapter"
        ),
        "cross_adapter": "the base has no cross-attention; train without cross_adapter",
        "phm_layer": "Compacter's hypercomplex layers are not served; train without phm_layer",
    },
)


@dataclass(frozen=True)
class BottleneckSettings:
    """What a config says about the computation, and nothing else."""

    places: tuple[str, ...]  # "attention", "output"
    on_stream: bool  # Pfeiffer: on the layer's output, rather than on a linear's
    activation: Activation
    scale: float | None  # None: learned, in the file
    scales_channels: bool
    left_out: frozenset[int]  # layers without an adapter
    default_rank: int
    ranks: Mapping[int, int]  # of single layers

    def rank_of(self, layer: int) -> int:
        return self.ranks.get(layer, self.default_rank)


def is_of_adapters_library(fields: Fields) -> bool:
    """Whether a config without a peft_type is one of theirs."""
    return fields.get("peft_type") is None and isinstance(fields.get("config"), dict)


def bottleneck_settings(fields: Fields, hidden_size: int) -> BottleneckSettings:
    """hidden_size: of the base. Raises AdapterRefused, with the key at fault as `param`."""
    values = fields.get("config")
    inner = Fields(values if isinstance(values, dict) else {})
    architecture = inner.get("architecture")
    if architecture is not None:
        raise AdapterRefused(
            f"architecture {quoted(architecture)} of the adapters library is not served, of its "
            "configs only bottleneck adapters are. Train it with PEFT.",
            "architecture",
        )
    _KEYS.require_known(inner)
    if fields.get("hidden_size") != hidden_size:
        raise AdapterRefused(
            f"hidden_size is {quoted(fields.get('hidden_size'))}, of the base it is "
            f"{hidden_size}. Serve the base the adapter was trained on.",
            "hidden_size",
        )
    scaling = inner.get("scaling", 1.0)
    is_learned = scaling in ("learned", "channel")
    default, ranks = _ranks(inner, hidden_size)
    return BottleneckSettings(
        places=_places(inner),
        on_stream=_is_on_stream(fields, inner),
        activation=_activation(inner),
        scale=None if is_learned else inner.positive(scaling, "scaling", _MAX_SCALE),
        scales_channels=scaling == "channel",
        left_out=_layers(inner),
        default_rank=default,
        ranks=ranks,
    )


def _places(inner: Fields) -> tuple[str, ...]:
    chosen = {"attention": inner.flag("mh_adapter"), "output": inner.flag("output_adapter")}
    places = tuple(place for place, is_on in chosen.items() if is_on)
    if not places:
        raise AdapterRefused("Neither mh_adapter nor output_adapter is true.", "output_adapter")
    return places


def _is_on_stream(fields: Fields, inner: Fields) -> bool:
    """Which of the two forms it is; every other way of adding the residual is refused."""
    before, residual = inner.flag("original_ln_before"), inner.get("residual_before_ln", True)
    if not before:
        _require(inner, "original_ln_after", True, "the residual would be lost")
        if not isinstance(residual, bool):
            raise AdapterRefused(
                f"residual_before_ln={quoted(residual)} needs original_ln_before.",
                "residual_before_ln",
            )
        return False
    if fields.get("model_type") not in _WITHOUT_NORM:
        raise AdapterRefused(
            "original_ln_before puts the adapter behind a layer norm of the model in "
            f"model_type {quoted(fields.get('model_type'))}, which is not served (in "
            f"{' and '.join(_WITHOUT_NORM)} it does not). Train with double_seq_bn.",
            "original_ln_before",
        )
    if inner.flag("mh_adapter"):
        raise AdapterRefused(
            "mh_adapter with original_ln_before adapts the stream between attention and MLP, "
            "which is not served. Train with double_seq_bn, or with output_adapter alone.",
            "mh_adapter",
        )
    if residual is True:
        _require(inner, "original_ln_after", True, "the residual would be lost")
    elif residual is False:
        _require(inner, "original_ln_after", False, "the residual would be added twice")
    else:
        raise AdapterRefused(
            f"residual_before_ln={quoted(residual)} needs a layer norm, which the model's layers "
            "hand to no adapter. Train with true.",
            "residual_before_ln",
        )
    return True


def _require(inner: Fields, key: str, wanted: bool, why: str) -> None:
    value = inner.get(key, True)
    if value is not wanted:
        raise AdapterRefused(
            f"{key}={quoted(value)} is not served here: {why}. Train with {quoted(wanted)}.", key
        )


def _activation(inner: Fields) -> Activation:
    name = inner.get("non_linearity")
    found = _ACTIVATIONS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise AdapterRefused(
            f"non_linearity={quoted(name)} is not served. Served are {', '.join(_ACTIVATIONS)}.",
            "non_linearity",
        )
    return found


def _layers(inner: Fields) -> frozenset[int]:
    value = inner.get("leave_out")
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise AdapterRefused(f"leave_out is {quoted(value)}; use a list of layers.", "leave_out")
    return frozenset(inner.integer(layer, "leave_out", 0, 1 << 16) for layer in value)


def _ranks(inner: Fields, hidden_size: int) -> tuple[int, dict[int, int]]:
    """Of layers that are not named, and of those that are: hidden_size // reduction_factor."""
    key = "reduction_factor"

    def rank(value: object) -> int:
        return max(1, int(hidden_size // inner.positive(value, key, _MAX_FACTOR)))

    factor = inner.get(key)
    if not isinstance(factor, dict):
        return rank(factor), {}
    named = {name: rank(value) for name, value in factor.items() if name != "default"}
    if not all(name.isdecimal() for name in named):
        raise AdapterRefused(f"{key} names what is no number of a layer.", key)
    if "default" not in factor:
        raise AdapterRefused(f'{key} has no "default" for the layers it does not name.', key)
    return rank(factor["default"]), {int(name): value for name, value in named.items()}
