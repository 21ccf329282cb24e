"""Bytes in, leased adapters out. Knows nothing of HTTP or the engine."""

from motet_adapters.adapter import Adapter
from motet_adapters.arena import Arena, ArenaStats
from motet_adapters.base_weights import BaseWeights
from motet_adapters.condition import ANY, UNCONDITIONAL, Condition
from motet_adapters.errors import (
    AdapterError,
    AdapterLoadFailed,
    AdapterNotFound,
    AdapterQuarantined,
    AdapterRefused,
    AdapterTooLarge,
    BlobsUnavailable,
    ConditionFailed,
    ImportFailed,
    ImportRefused,
    InvalidName,
    StoreFull,
    StoreUnusable,
    VersionNotFound,
)
from motet_adapters.image import Entry, Image, SiteParts
from motet_adapters.index import Lease
from motet_adapters.limits import Limits
from motet_adapters.origin import Origin
from motet_adapters.prefixes import Prefixes
from motet_adapters.residents import Slot
from motet_adapters.staging import Staging
from motet_adapters.store import AdapterStore
from motet_adapters.versions import Versions

__all__ = [
    "ANY",
    "UNCONDITIONAL",
    "Adapter",
    "AdapterError",
    "AdapterLoadFailed",
    "AdapterNotFound",
    "AdapterQuarantined",
    "AdapterRefused",
    "AdapterStore",
    "AdapterTooLarge",
    "Arena",
    "ArenaStats",
    "BaseWeights",
    "BlobsUnavailable",
    "Condition",
    "ConditionFailed",
    "Entry",
    "Image",
    "ImportFailed",
    "ImportRefused",
    "InvalidName",
    "Lease",
    "Limits",
    "Origin",
    "Prefixes",
    "SiteParts",
    "Slot",
    "Staging",
    "StoreFull",
    "StoreUnusable",
    "VersionNotFound",
    "Versions",
]
