"""One family of adapters: how to know it, what it computes, and how it is lowered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.config_keys import ConfigKeys
from motet_adapters.families.plan import AdapterPlan
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

Status = Literal["served", "lossy", "refused"]

Plan = Callable[[Fields, Mapping[str, StoredTensor], BaseWeights, Limits], AdapterPlan]
"""From a config whose keys are known and the file's header. Raises AdapterRefused."""


def _always(_fields: Fields) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """A row of docs/adapters.md, and the code behind it.

    `plan` is what serves it; a family that is refused, or only served converted, has `fix`
    instead, which completes the sentence "TITLE is not served: ...".
    """

    name: str
    title: str
    peft_type: str
    status: Status
    formula: str
    lowering: str
    rank_after: str
    memory: str
    paper_url: str
    keys: ConfigKeys | None = None
    plan: Plan | None = None
    fix: str = ""
    param: str = "peft_type"
    """The key that a refusal names."""
    claims: Callable[[Fields], bool] = _always
    """Of several families with one peft_type, whether a config is of this one."""
    marker: str = ""
    """Of several families with one peft_type, what a tensor's name in this one's files ends in."""
    convert: Plan | None = None
    """Serves with a loss what cannot be served, or cannot always, if the uploader asks for it."""

    def __post_init__(self) -> None:
        if (self.status == "served") == (self.plan is None):
            raise ValueError(f"{self.name}: a plan for what is served, and only for that")
        if (self.plan is None) == (not self.fix):
            raise ValueError(f"{self.name}: either a plan or a fix")
        if self.status != "served" and (self.status == "lossy") == (self.convert is None):
            raise ValueError(f"{self.name}: lossy is what can be converted")
