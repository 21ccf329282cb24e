"""Every family of adapters: known by its config, lowered to one formula, or refused by name.

To add a family:

1. Write `families/NAME.py` with a function `plan_NAME(fields, tensors, base, limits)` that returns
   an `AdapterPlan`: one `SitePlan` for each adapted place of the model. It reads the config through
   `fields` (typed, refusing with the key's name), may look at the names and shapes in `tensors`,
   and must not read a tensor. `modules.targeted_linears` finds the modules the config means.
2. A `SitePlan` lists the tensors it wants with their exact shapes, the parts it will make
   (`PartSpec`), and a `lower(read)` that makes them in float32, the scale folded into B. What the
   parts mean is stated in `motet_kernels.LowRank`, once for all families. Sizes, missing and
   left-over tensors, values that are not finite, limits and rounding are checked for all
   families alike in `matching.py` and `lower.py`; a family checks only what is its own.
3. Name every key of its config in a `ConfigKeys`: served, harmless (whatever it holds), or refused
   with what to do instead. A test holds this against PEFT's own config class.
4. Make a `Family`, the row of docs/adapters.md, and add it to `FAMILIES` below. Of several with one
   peft_type the first whose `claims` is true is taken, so the general one comes last.
5. Test in tests/adapters_store/families/: PEFT writes the adapter with random non-zero weights, and
   the lowered formula must compute what PEFT's own module does.

A family that cannot be served has a `fix` in place of a plan, and its test is that it is refused.
"""

from collections.abc import Mapping
from dataclasses import replace

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.adalora import ADALORA
from motet_adapters.families.bdlora import BDLORA
from motet_adapters.families.beft import BEFT
from motet_adapters.families.bottleneck import BOTTLENECK
from motet_adapters.families.bottleneck_config import is_of_adapters_library
from motet_adapters.families.config_keys import TARGETS, is_set
from motet_adapters.families.deft import DEFT
from motet_adapters.families.delora import DELORA
from motet_adapters.families.dense_updates import C3A, FOURIERFT, HIRA, OSF, SHIRA
from motet_adapters.families.family import Family
from motet_adapters.families.gralora import GRALORA
from motet_adapters.families.hra import HRA
from motet_adapters.families.ia3 import IA3
from motet_adapters.families.irqlora import IRQLORA
from motet_adapters.families.kasa import KASA
from motet_adapters.families.ln_tuning import LN_TUNING
from motet_adapters.families.loftq import LOFTQ
from motet_adapters.families.loha import LOHA
from motet_adapters.families.lokr import LOKR
from motet_adapters.families.lora import ALORA, DORA, PLAIN_LORA, RSLORA, VELORA
from motet_adapters.families.lora_xs import LORA_XS
from motet_adapters.families.miss import MISS
from motet_adapters.families.nola import NOLA
from motet_adapters.families.oft import BOFT, OFT
from motet_adapters.families.pissa import (
    CORDA,
    LORA_GA,
    MILORA,
    OLORA,
    PISSA,
    PISSA_NITER,
)
from motet_adapters.families.plan import AdapterPlan, PartSpec, SitePlan
from motet_adapters.families.prompt import (
    CARTRIDGE,
    CPT,
    MULTITASK_PROMPT_TUNING,
    P_TUNING,
    PREFIX_TUNING,
    PROMPT_TUNING,
)
from motet_adapters.families.qalora import QALORA
from motet_adapters.families.randlora import RANDLORA
from motet_adapters.families.refused import REFUSED
from motet_adapters.families.road import ROAD
from motet_adapters.families.svf import SVF
from motet_adapters.families.svft import SVFT
from motet_adapters.families.tinylora import TINYLORA
from motet_adapters.families.trainable_tokens import TRAINABLE_TOKENS
from motet_adapters.families.unilora import UNILORA
from motet_adapters.families.update_sites import FOLDS_EXACTLY
from motet_adapters.families.vblora import VBLORA
from motet_adapters.families.vera import PVERA, VERA
from motet_adapters.file_kinds import CONFIG_FILE
from motet_adapters.limits import Limits
from motet_adapters.lossy import LOSSY_KEY
from motet_adapters.names import listed, quoted
from motet_adapters.safetensors_file import StoredTensor

__all__ = [
    "FAMILIES",
    "AdapterPlan",
    "Family",
    "PartSpec",
    "SitePlan",
    "find_family",
    "plan_upload",
]

FAMILIES: tuple[Family, ...] = (
    NOLA,
    LORA_XS,
    IRQLORA,
    PISSA,
    PISSA_NITER,
    OLORA,
    MILORA,
    CORDA,
    LORA_GA,
    LOFTQ,
    QALORA,
    BDLORA,
    KASA,
    ALORA,
    DORA,
    RSLORA,
    VELORA,
    *PLAIN_LORA,
    ADALORA,
    IA3,
    LN_TUNING,
    VBLORA,
    TRAINABLE_TOKENS,
    LOHA,
    LOKR,
    HRA,
    MISS,
    DELORA,
    GRALORA,
    DEFT,
    TINYLORA,
    VERA,
    PVERA,
    SVF,
    SVFT,
    UNILORA,
    BEFT,
    BOTTLENECK,
    OFT,
    BOFT,
    HIRA,
    RANDLORA,
    FOURIERFT,
    C3A,
    SHIRA,
    ROAD,
    OSF,
    *REFUSED,
    PROMPT_TUNING,
    P_TUNING,
    CPT,
    PREFIX_TUNING,
    CARTRIDGE,
    MULTITASK_PROMPT_TUNING,
)


def plan_upload(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Raises AdapterRefused: of no family, of one that is not served, or not as it must be."""
    family = find_family(fields, tensors)
    is_lossy = is_set(fields, LOSSY_KEY)
    if is_lossy and family.convert is None and family.plan is not None:
        raise AdapterRefused(f"{family.title} {FOLDS_EXACTLY}", "lossy")
    plan = family.convert if is_lossy else family.plan
    if plan is None:
        raise AdapterRefused(f"{family.title} is not served: {family.fix}.", family.param)
    if family.keys is not None:
        family.keys.require_known(fields.without(LOSSY_KEY))
    found = plan(fields, tensors, base, limits)
    return replace(found, warnings=(*found.warnings, *_of_expressions(family, fields)))


def _of_expressions(family: Family, fields: Fields) -> tuple[str, ...]:
    """PEFT adapts on loading what an expression matches; here the file alone says what it was."""
    is_targeted = family.keys is not None and family.keys.served >= TARGETS
    if not is_targeted or not is_set(fields, "target_modules"):
        return ()
    if not fields.targets().is_expression:
        return ()
    return (
        "target_modules or exclude_modules is an expression, which is never run: adapted are the "
        "modules that the file has tensors for.",
    )


def find_family(fields: Fields, tensors: Mapping[str, StoredTensor]) -> Family:
    """The family of a config. Raises AdapterRefused, with the file's tensors, if there is none."""
    peft_type = "" if is_of_adapters_library(fields) else fields.get("peft_type")
    if peft_type is None:
        raise AdapterRefused(
            f"{CONFIG_FILE} has no peft_type: it is not a config that PEFT wrote, so these tensors "
            f"found no home: {listed(list(tensors))}.",
            "peft_type",
        )
    for family in FAMILIES:
        if (
            family.peft_type == peft_type
            and family.claims(fields)
            and (not family.marker or any(name.endswith(family.marker) for name in tensors))
        ):
            return family
    raise AdapterRefused(
        f"peft_type {quoted(peft_type)} is of no family that this server knows, so these tensors "
        f"found no home: {listed(list(tensors))}. Served are: "
        f"{', '.join(family.title for family in FAMILIES if family.plan is not None)}.",
        "peft_type",
    )
