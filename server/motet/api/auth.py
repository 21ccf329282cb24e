"""Who is calling: header -> tenant, or the admin."""

from starlette.requests import Request

from motet.errors import Forbidden, Unauthorized
from motet.settings import Settings, is_loopback
from motet.tenancy.keys import key_digest, same_key
from motet.tenancy.tenants import DEFAULT_TENANT, Tenants

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class Gate:
    """Decides what a request's key opens. Reads the tenants anew for each request."""

    def __init__(self, settings: Settings, tenants: Tenants) -> None:
        self._tenants = tenants
        self._loopback = settings.loopback
        self._host = settings.host.lower()
        given = settings.admin_key
        self._admin_digest = key_digest(given.get_secret_value()) if given else None

    def tenant(self, request: Request) -> str:
        """The tenant a request is served for.

        Without any tenant configured that is the default tenant, for a server on loopback asked
        by its loopback name. Raises Unauthorized or Forbidden.
        """
        name = self._tenant(request)
        request.state.tenant = name
        return name

    def require_admin(self, request: Request) -> None:
        """Raises Unauthorized without the admin key, Forbidden with a tenant's."""
        key = _bearer(request)
        if key is not None and self._is_admin(key):
            return
        if key is not None and self._tenants.authenticate(key) is not None:
            raise Forbidden("This needs the admin key; the key sent is a tenant's.")
        if self._admin_digest is None and not self._tenants.has_admin_key():
            raise Unauthorized(
                "No admin key is set on this server. Its operator can set MOTET_ADMIN_KEY and "
                "restart it.",
                "admin_key_not_set",
            )
        raise Unauthorized("This needs the admin key, as Authorization: Bearer <key>.")

    def require_operator(self, request: Request) -> None:
        """Lets loopback in without a key, others with the admin key.

        Behind a proxy on the same machine every peer looks local, so a request that says it was
        forwarded does not count as local.
        """
        peer = request.client.host if request.client is not None else ""
        forwarded = any(name in request.headers for name in _FORWARDED)
        if is_loopback(peer) and not forwarded and self._asked_by_own_name(request):
            return
        self.require_admin(request)

    def _tenant(self, request: Request) -> str:
        if not self._tenants.configured():
            self._require_local(request)
            return DEFAULT_TENANT
        key = _bearer(request)
        if key is None:
            raise Unauthorized("Send your key, as Authorization: Bearer motet_...")
        name = self._tenants.authenticate(key)
        if name is None:
            raise Unauthorized("This key is not known; it may have been revoked or rotated.")
        return name

    def _require_local(self, request: Request) -> None:
        # The start-up check cannot see a database that is removed under a running server.
        if not self._loopback:
            raise Unauthorized("This server has no tenants; its operator has to create one.")
        # A web page may rebind its own name to 127.0.0.1, but then Host still holds its name.
        if not self._asked_by_own_name(request):
            raise Forbidden(
                "Without tenants this server answers to its loopback name only; ask it as "
                "127.0.0.1 or localhost, or create a tenant and use its key.",
                "foreign_host",
            )

    def _asked_by_own_name(self, request: Request) -> bool:
        name = _host_name(request.headers.get("host", ""))
        return is_loopback(name) or (self._loopback and name == self._host)

    def _is_admin(self, key: str) -> bool:
        digest, given = key_digest(key), self._admin_digest
        if digest is not None and given is not None and same_key(digest, given):
            return True
        return self._tenants.is_admin(key)


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _host_name(header: str) -> str:
    """The host of a Host header, without its port and, for IPv6, its brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
