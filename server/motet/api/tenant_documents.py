"""Tenants, keys and quotas as JSON, in both directions."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict

from motet.tenancy.quotas import Quota
from motet.tenancy.scopes import USUAL_SCOPES
from motet.tenancy.tenant_keys import Key
from motet.tenancy.tenants import Tenant


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewTenant(_Body):
    """The body of POST /admin/tenants."""

    name: str
    scopes: list[str] = list(USUAL_SCOPES)


class Renaming(_Body):
    """The body of PATCH /admin/tenants/{name}."""

    name: str


class NewKey(_Body):
    """The body that makes a key. `expires_at`: unix seconds; null: never."""

    scopes: list[str] = list(USUAL_SCOPES)
    label: str = ""
    expires_at: int | None = None


class Rotation(_Body):
    """The body that rotates a key. `grace_s`: how long the old one still works."""

    grace_s: int = 0


class QuotaChange(_Body):
    """Limits to be set; null goes back to the server's default, what is left out stays."""

    max_adapters: int | None = None
    max_bytes: int | None = None
    max_rank: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    def limits(self) -> dict[str, int | None]:
        """Those that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "id": tenant.id,
        "object": "tenant",
        "created": tenant.created,
        "state": tenant.state,
        "state_since": tenant.state_since,
        "key_ids": list(tenant.key_ids),
    }


def key_document(key: Key) -> dict[str, Any]:
    return {**asdict(key), "object": "key", "scopes": list(key.scopes)}


def made_key_document(made: tuple[Key, str]) -> dict[str, Any]:
    """With the key itself, which is shown this once."""
    key, secret = made
    return {**key_document(key), "key": secret}


def quota_document(own: Quota, effective: Quota) -> dict[str, Any]:
    """`own`: what is set for the tenant alone; null: the server's default holds."""
    return {"object": "quota", "own": asdict(own), "effective": asdict(effective)}


def listing(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": documents}
