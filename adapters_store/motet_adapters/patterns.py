"""rank_pattern and alpha_pattern without regular expressions.

PEFT takes the first key for which re.match(rf"(.*\\.)?({key})$", module) holds, interpolating what
the uploader wrote; a key like "(([a-z_0-9.])+)+!" then occupies a core for hours. Here keys are
plain names, for which that expression means exactly what `Pattern.find` computes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from motet_adapters.errors import AdapterRefused
from motet_adapters.names import quoted

_T = TypeVar("_T")
_PLAIN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_ANYWHERE = r".*\."  # before a name: what PEFT writes itself for experts, and means by a plain one
_MAX_NAME = 512
# Each key may have to be compared with each module of the base; this bounds that work.
_MAX_KEYS = 1024


def is_plain_name(name: str) -> bool:
    """Whether `name` is dotted identifiers only, so that it can't be an expression."""
    return len(name) <= _MAX_NAME and _PLAIN.fullmatch(name) is not None


@dataclass(frozen=True)
class _Key(Generic[_T]):
    position: int  # in the file; the first key that matches wins
    is_whole: bool  # written with '^': only for the module of exactly that path
    is_end: bool  # written with '.*\\.': never for a whole path
    parts: tuple[tuple[int, str], ...]  # what is between the dots, and where
    value: _T

    def matches(self, text: str) -> bool:
        """Whether `text`, of the key's length, is matched by it.

        PEFT does not escape the key's dots, so there each stands for any character.
        """
        return all(text.startswith(part, start) for start, part in self.parts)


class Pattern(Generic[_T]):
    """Values for modules by the ends of their paths, as rank_pattern gives them."""

    def __init__(self, values: Mapping[str, _T], param: str) -> None:
        """Raises AdapterRefused for too many keys, and for one that is not a plain name."""
        if len(values) > _MAX_KEYS:
            raise AdapterRefused(
                f"{param} has {len(values)} keys, over the limit of {_MAX_KEYS}. Use shorter "
                "names that stand for several modules each.",
                param,
            )
        self._by_length: dict[int, list[_Key[_T]]] = {}
        self._found: dict[str, _Key[_T] | None] = {}  # each module is asked for several times
        for position, (name, value) in enumerate(values.items()):
            rooted = name.removeprefix("^")
            plain = rooted.removeprefix(_ANYWHERE)
            if not is_plain_name(plain):
                raise _refuse_key(name, param)
            is_whole = rooted != name and plain == rooted
            key = _Key(position, is_whole, plain != rooted, tuple(_parts(plain)), value)
            self._by_length.setdefault(len(plain), []).append(key)

    @property
    def is_empty(self) -> bool:
        """Whether there are no keys."""
        return not self._by_length

    def find(self, module: str, default: _T) -> _T:
        """The value of the first key that PEFT would match `module` against."""
        if module not in self._found:
            self._found[module] = self._find(module)
        found = self._found[module]
        return default if found is None else found.value

    def _find(self, module: str) -> _Key[_T] | None:
        best: _Key[_T] | None = None
        for text in suffixes(module):
            for key in self._by_length.get(len(text), ()):
                if best is not None and best.position < key.position:
                    break
                if (key.is_end if text is module else key.is_whole) or not key.matches(text):
                    continue
                best = key
                break
        return best


def suffixes(module: str) -> Iterator[str]:
    """The path itself and what follows each of its dots."""
    yield module
    for index, character in enumerate(module):
        if character == ".":
            yield module[index + 1 :]


def _parts(name: str) -> Iterator[tuple[int, str]]:
    start = 0
    for part in name.split("."):
        yield start, part
        start += len(part) + 1


def _refuse_key(name: str, param: str) -> AdapterRefused:
    return AdapterRefused(
        f"{param} has the key {quoted(name)}; expressions from uploads are never run. Use plain "
        "names, such as q_proj or layers.0.self_attn.q_proj, one for each module the expression "
        "stands for.",
        param,
    )
