"""Who is calling: header -> tenant and scopes, or the admin."""

from functools import partial

from starlette.requests import Request

from motet.errors import Forbidden, Unauthorized
from motet.settings import Settings, is_loopback
from motet.tenancy.key_ring import Caller
from motet.tenancy.keys import key_digest, same_key
from motet.tenancy.scopes import SCOPES, Scope
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.tenants import DEFAULT_TENANT

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_READING = ("GET", "HEAD")


class Gate:
    """Decides what a request's key opens. Asks memory alone, so it belongs on the event loop."""

    def __init__(self, settings: Settings, tenancy: Tenancy) -> None:
        self._tenancy = tenancy
        self._ring = tenancy.ring
        self._loopback = settings.loopback
        self._host = settings.host.lower()
        given = settings.admin_key
        self._admin_digest = key_digest(given.get_secret_value()) if given else None

    def tenant(self, request: Request, scope: Scope | None = None) -> str:
        """The id of the tenant a request is served for; raises as `caller` does."""
        return self.caller(request, scope).tenant

    def caller(self, request: Request, scope: Scope | None = None) -> Caller:
        """Whose request this is, once its key was found to have `scope`, and counts it.

        scope: None asks for none to read (GET, HEAD) and for "upload" to change anything.
        Without any tenant configured the caller is the default tenant, for a server on loopback
        asked by its loopback name. Raises Unauthorized, Forbidden, RateLimited.
        """
        caller = self._caller(request)
        request.state.tenant = caller.tenant
        needed = scope or (None if request.method in _READING else "upload")
        if needed is not None and needed not in caller.scopes:
            raise Forbidden(
                f"This needs a key with the scope {needed!r}; this key has "
                f"{', '.join(sorted(caller.scopes))}.",
                "missing_scope",
            )
        rates, quota = self._tenancy.rates, self._tenancy.quota(caller.tenant)
        request.state.rate_headers = partial(rates.headers, caller.tenant, quota)
        rates.count_request(caller.tenant, quota)
        return caller

    def require_admin(self, request: Request) -> None:
        """Raises Unauthorized without the admin key, Forbidden with a tenant's."""
        key = _bearer(request)
        if key is not None and self._is_admin(key):
            return
        if key is not None and self._ring.authenticate(key) is not None:
            raise Forbidden("This needs the admin key; the key sent is a tenant's.")
        if self._admin_digest is None and not self._ring.has_admin_key():
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

    def _caller(self, request: Request) -> Caller:
        key = _bearer(request)
        # Before it is asked whether there are tenants: the key may be that of the first.
        caller = None if key is None else self._ring.authenticate(key)
        if caller is not None:
            return caller
        if not self._ring.configured():
            self._require_local(request)
            return Caller(DEFAULT_TENANT, None, frozenset(SCOPES))
        if key is None:
            raise Unauthorized("Send your key, as Authorization: Bearer motet_...")
        raise Unauthorized(
            "This key opens nothing: it is not known, has expired, was revoked or rotated, or its "
            "tenant is suspended."
        )

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
        return self._ring.is_admin(key)


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _host_name(header: str) -> str:
    """The host of a Host header, without its port and, for IPv6, its brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
