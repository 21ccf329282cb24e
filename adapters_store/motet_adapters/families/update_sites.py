"""Sites whose update of a linear is no product of small factors, and is cut to one: with a loss."""

from collections.abc import Callable, Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.config_keys import ConfigKeys
from motet_adapters.families.family import Family, Plan
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import Shapes, key
from motet_adapters.limits import Limits
from motet_adapters.lossy import LOSSY_KEY
from motet_adapters.safetensors_file import StoredTensor

MakeUpdate = Callable[..., Tensor]
"""A module's tensors, in the order of their shapes -> what is added to its weight, [N, K]."""

LOSSY = (
    "its update of a weight is no product of small factors. Upload it with lossy=true (and "
    "rank=...) to have it cut to one; the reply tells what is lost"
)
"""The fix of every family that can be converted so."""


FOLDS_EXACTLY = (
    "folds exactly into what is served, so that nothing need be lost. Upload it without lossy."
)


def lossy_rank(fields: Fields, limits: Limits) -> int:
    return fields.integer(fields.get(LOSSY_KEY), "rank", 1, limits.max_rank)


def update_site(
    base: BaseWeights,
    module: str,
    rank: int,
    shapes: Shapes,
    update: MakeUpdate,
    integers: frozenset[str] = frozenset(),
) -> SitePlan:
    """A site that is LoRA of `rank` once its update has been cut. integers: of `shapes`."""
    (n, k), suffixes = base.shape(module), tuple(shapes)
    rank = min(rank, n, k)

    def of_file(read: Read) -> Tensor:
        return update(*(read(key(module, suffix)) for suffix in suffixes))

    return SitePlan(
        module,
        {key(module, suffix): shape for suffix, shape in shapes.items()},
        {"a": PartSpec((rank, k)), "bt": PartSpec((rank, n))},
        lambda _read: {},
        integers=frozenset(key(module, suffix) for suffix in integers),
        update=of_file,
    )


def stored_shape(
    tensors: Mapping[str, StoredTensor], module: str, suffix: str, num_dims: int
) -> tuple[int, ...]:
    """Of a tensor whose sizes the config does not tell; ones if it is missing or of other
    dimensions, which is refused later."""
    found = tensors.get(key(module, suffix))
    if found is None or len(found.shape) != num_dims:
        return (1,) * num_dims
    return found.shape


def lossy_family(
    name: str,
    title: str,
    formula: str,
    lowering: str,
    paper_url: str,
    keys: ConfigKeys,
    convert: Plan,
) -> Family:
    """A family that is only served converted. Its peft_type is the title in capitals."""
    return Family(
        name=name,
        title=title,
        peft_type=title.upper(),
        status="lossy",
        formula=formula,
        lowering=f"{lowering}, cut to the rank given",
        rank_after="as given, lossy",
        memory="rank (K + N)",
        paper_url=paper_url,
        keys=keys,
        convert=convert,
        fix=LOSSY,
    )
