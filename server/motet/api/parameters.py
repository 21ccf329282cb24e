"""Query parameters that must not be misspelt."""

from starlette.requests import Request

from motet.errors import RequestRefused


def require_known(request: Request, *known: str) -> None:
    """Raises RequestRefused for any other parameter: ?dryrun=true must not publish."""
    for name in request.query_params:
        if name not in known:
            takes = " and ".join(known) or "none"
            raise RequestRefused(
                f"The query parameter {name[:64]!a} is not known; this route takes {takes}.",
                "unknown_parameter",
                name[:64].encode("ascii", "backslashreplace").decode(),
            )
