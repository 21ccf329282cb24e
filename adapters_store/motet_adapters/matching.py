"""Every tensor of an upload lands on a site, and every tensor a site wants is there, or neither."""

from collections.abc import Mapping

from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import AdapterPlan, BasisPlan, SitePlan
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.key_hints import explain
from motet_adapters.limits import Limits
from motet_adapters.names import listed, quoted
from motet_adapters.safetensors_file import StoredTensor

_SIZED = "Correct r or rank_pattern, or serve the base the adapter was trained on."
_SHARDED = "If it was trained sharded (ZeRO-3, FSDP), gather the weights before saving."


def require_match(plan: AdapterPlan, tensors: Mapping[str, StoredTensor], limits: Limits) -> None:
    """Raises AdapterRefused with the names that don't fit."""
    wanted: list[SitePlan | BasisPlan] = [*plan.sites, *plan.bases.values()]
    expected = {name for each in wanted for name in each.tensors}
    expected |= plan.ignored | plan.copies.keys()
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise AdapterRefused(explain(extra, plan.kind), WEIGHTS_FILE)
    missing = list(
        dict.fromkeys(name for each in wanted for name in each.tensors if name not in tensors)
    )
    if missing:
        raise AdapterRefused(
            f"{len(missing)} tensors that the config calls for are missing: {listed(missing)}. "
            "Correct target_modules (or layers_to_transform, exclude_modules, use_dora) to what "
            "was trained, or upload the whole file.",
            WEIGHTS_FILE,
        )
    for site in plan.sites:
        _require_tensors(site.tensors, site.integers, tensors)
        _require_rank(site, limits)
    for basis in plan.bases.values():
        _require_tensors(basis.tensors, frozenset(), tensors)


def counts(plan: AdapterPlan) -> dict[str, int]:
    """Projection name -> number of modules: {"q_proj": 30, ...}. Layers count as "layers"."""
    found: dict[str, int] = {}
    for site in plan.sites:
        name = next(part for part in reversed(site.path.split(".")) if not part.isdecimal())
        found[name] = found.get(name, 0) + 1
    return found


def _require_tensors(
    wanted: Mapping[str, tuple[int, ...]],
    integers: frozenset[str],
    tensors: Mapping[str, StoredTensor],
) -> None:
    for name, shape in wanted.items():
        actual = tensors[name]
        if actual.shape != shape:
            raise AdapterRefused(
                f"Tensor {quoted(name, 200)} has shape {list(actual.shape)}; the config on this "
                f"base needs {list(shape)}. {_SHARDED if 0 in actual.shape else _SIZED}",
                WEIGHTS_FILE,
            )
        if actual.dtype.is_floating_point == (name in integers):
            kind = "integers" if name in integers else "float32, bfloat16 or float16"
            raise AdapterRefused(
                f"Tensor {quoted(name, 200)} is stored as "
                f"{str(actual.dtype).removeprefix('torch.')}. Save it as {kind}.",
                WEIGHTS_FILE,
            )


def _require_rank(site: SitePlan, limits: Limits) -> None:
    """Of what will run: families may run at a higher rank than their config says."""
    if site.rank is not None and site.rank > limits.max_rank and "a" not in site.bases:
        raise AdapterRefused(
            f"The adapter runs at rank {site.rank} on {site.path}, over the limit of "
            f"{limits.max_rank}. Train it with a smaller rank.",
            "r",
        )
