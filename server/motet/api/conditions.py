"""If-Match and If-None-Match (RFC 9110, 13.1): what a change of an adapter may depend on."""

import re

from motet_adapters import ANY, Condition
from starlette.requests import Request

from motet.errors import RequestRefused

# Entity tags, as this server makes them or any other way; weak ones match nothing here.
_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*')
_MAX_TAGS = 100


def etag(digest: str) -> dict[str, str]:
    """The header that names what an adapter serves."""
    return {"etag": f'"{digest}"'}


def condition_of(request: Request) -> Condition:
    """What the request's headers ask for. Raises RequestRefused."""
    return Condition(_digests(request, "If-Match"), _digests(request, "If-None-Match"))


def _digests(request: Request, header: str) -> frozenset[str] | None:
    values = request.headers.getlist(header)
    if not values:
        return None
    text = ",".join(values)
    if text.strip() == ANY:
        return frozenset({ANY})
    tags = [_TAG.fullmatch(one) for one in text.split(",", _MAX_TAGS)]
    if not all(tags):
        raise RequestRefused(
            f'{header} takes * or ETags in double quotes, such as "9f2c...", as a description of '
            "the adapter has them.",
            "bad_precondition",
            header.lower(),
        )
    return frozenset(tag[2] for tag in tags if tag is not None and tag[1] is None)
