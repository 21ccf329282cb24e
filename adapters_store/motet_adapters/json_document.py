"""JSON from strangers: what Python's parser lets through and a server must not is refused here."""

import json
import math
from collections import Counter
from typing import NoReturn

from motet_adapters.errors import AdapterRefused
from motet_adapters.names import quoted

_MAX_DEPTH = 32


def parse_object(text: bytes, what: str, filename: str) -> dict[str, object]:
    """A JSON object from UTF-8 bytes. Raises AdapterRefused: `what` is in `filename`.

    Refused: duplicate keys (two readers would disagree), NaN and infinities in any spelling,
    nesting deeper than 32, text that is not UTF-8, and everything that is not JSON.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise AdapterRefused(f"{what} holds the key {quoted(twice)} twice. Keep one.", filename)
        return result

    def no_constant(name: str) -> NoReturn:
        raise AdapterRefused(f"{what} holds {name}; use finite numbers.", filename)

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            no_constant(digits[:20])
        return number

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_float=finite,
        )
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(
            f"{what} is not valid JSON. Upload the file as PEFT's save_pretrained wrote it.",
            filename,
        ) from error
    if not isinstance(value, dict):
        raise AdapterRefused(f"{what} is not a JSON object.", filename)
    if _depth(value) > _MAX_DEPTH:
        raise AdapterRefused(f"{what} is nested deeper than {_MAX_DEPTH} levels.", filename)
    return value


def _depth(value: object) -> int:
    depth = 0
    level: list[object] = [value]
    while level:
        depth += 1
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth
