"""The demo tenants that `motet serve --demo` creates, one adapter each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_ADAPTERS = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class DemoTenant:
    """A tenant, the committed adapter it owns, and a prompt that shows what the adapter does."""

    tenant: str
    adapter: str
    kind: Literal["lora", "rslora", "dora"]
    prompt: str

    @property
    def directory(self) -> Path:
        """Holds adapter_config.json and adapter_model.safetensors."""
        return _ADAPTERS / self.adapter


DEMO_TENANTS: tuple[DemoTenant, ...] = (
    DemoTenant("tenant-json", "json-only", "lora", "What is the capital of Italy?"),
    DemoTenant("tenant-french", "french", "rslora", "What is the capital of Italy?"),
    DemoTenant(
        "tenant-sql",
        "sql",
        "dora",
        "Table books(id, title, author, pages, price). Which books have a price above 20?",
    ),
)
