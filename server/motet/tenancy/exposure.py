"""Whether a server may listen where it was told to: without tenants, on loopback alone."""

from motet.errors import InvalidSetting
from motet.settings import Settings
from motet.tenancy.tenants import DEFAULT_TENANT, Tenants


def check_exposure(settings: Settings, tenants: Tenants) -> str | None:
    """None if requests need keys; else a sentence for the operator saying that they don't.

    Raises InvalidSetting if no tenant is configured and the host can be reached from outside.
    """
    if tenants.configured():
        return None
    if not settings.loopback:
        raise InvalidSetting(
            f"No tenant is configured, so anyone who reaches {settings.host} could use the server. "
            "Create a tenant first (motet tenants create NAME, with the same data_dir), or listen "
            "on 127.0.0.1.",
            "exposed",
            "MOTET_HOST",
        )
    return (
        "No tenant is configured: the server listens on loopback only, needs no key, and serves "
        f"every request as tenant {DEFAULT_TENANT!r}. Create one with: motet tenants create NAME"
    )
