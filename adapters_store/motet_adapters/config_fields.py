"""Typed access to the values of a parsed adapter_config.json. Each refusal names its key."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from motet_adapters.errors import AdapterRefused
from motet_adapters.names import quoted
from motet_adapters.patterns import Pattern, is_plain_name
from motet_adapters.targets import TargetSpec

_T = TypeVar("_T")
_MAX_LAYER = 1 << 16
# Each may have to be looked for in each module of the base; models have one or two such lists.
_MAX_LAYERS_PATTERNS = 32


class Fields:
    """Reads single keys. Absent and null mean the key's default, as in PEFT."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self._values)

    def without(self, key: str) -> "Fields":
        """All but one key."""
        return Fields({name: value for name, value in self._values.items() if name != key})

    def get(self, key: str, default: object = None) -> object:
        """The value as it is in the file."""
        return self._values.get(key, default)

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise AdapterRefused(f"{key} is {quoted(value)}; use true or false.", key)
        return value

    def integer(self, value: object, param: str, low: int, high: int) -> int:
        # type() rather than isinstance: to Python true is an int.
        if type(value) is not int or not low <= value <= high:
            raise AdapterRefused(
                f"{param} is {quoted(value)}; use a whole number from {low} to {high}.", param
            )
        return value

    def positive(self, value: object, param: str, high: float) -> float:
        if type(value) not in (int, float) or not 0 < value <= high:  # type: ignore[operator]
            raise AdapterRefused(
                f"{param} is {quoted(value)}; use a positive number up to {high:g}.", param
            )
        return float(value)  # type: ignore[arg-type]

    def pattern(self, key: str, check: Callable[[object, str], _T]) -> Pattern[_T]:
        """rank_pattern or alpha_pattern, with every value checked by `check(value, key)`."""
        value = self._values.get(key) or {}
        if not isinstance(value, dict):
            raise AdapterRefused(f"{key} is {quoted(value)}; use an object.", key)
        return Pattern({name: check(item, key) for name, item in value.items()}, key)

    def targets(self) -> TargetSpec:
        """target_modules, exclude_modules, layers_to_transform and layers_pattern."""
        layers = self._layers()
        layers_pattern = self._layers_pattern()
        if layers_pattern and layers is None:
            raise AdapterRefused(
                "layers_pattern has no effect without layers_to_transform. Remove it, or list "
                "the layers.",
                "layers_pattern",
            )
        raw = self._values.get("target_modules")
        exclude, exclude_expression = self._exclude()
        if isinstance(raw, str):
            if layers is not None:
                raise AdapterRefused(
                    "layers_to_transform needs target_modules to be a list of names, not a string.",
                    "layers_to_transform",
                )
            return TargetSpec(
                expression=raw, exclude=exclude, exclude_expression=exclude_expression
            )
        names = self._names("target_modules")
        if not names:
            raise AdapterRefused(
                "target_modules is empty. List the names of the modules that were trained, such "
                "as q_proj.",
                "target_modules",
            )
        return TargetSpec(
            names=names,
            exclude=exclude,
            layers=layers,
            layers_pattern=layers_pattern,
            exclude_expression=exclude_expression,
        )

    def names(self, key: str) -> tuple[str, ...]:
        """A list of plain module names; empty if there is none."""
        return self._names(key)

    def numbers(self, key: str, high: int) -> tuple[int, ...]:
        """A list of whole numbers from 0 to `high`; empty if there is none."""
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise AdapterRefused(f"{key} is {quoted(value)}; use a list of numbers.", key)
        return tuple(self.integer(item, key, 0, high) for item in value)

    def _exclude(self) -> tuple[tuple[str, ...], str | None]:
        """exclude_modules as names, or as an expression.

        PEFT adapts no module that it saves whole, whatever target_modules says.
        """
        raw, saved = self._values.get("exclude_modules"), self._names("modules_to_save")
        if isinstance(raw, str) and raw:
            return saved, raw
        return (*self._names("exclude_modules"), *saved), None

    def _names(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key)
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            raise AdapterRefused(
                f"{key} is the regular expression {quoted(value)}; expressions from uploads are "
                "never run. Use the list of names it stands for.",
                key,
            )
        if not isinstance(value, list):
            raise AdapterRefused(f"{key} is {quoted(value)}; use a list of names.", key)
        for name in value:
            if not isinstance(name, str) or not is_plain_name(name):
                raise AdapterRefused(
                    f"{key} holds {quoted(name)}; use plain module names, such as q_proj.", key
                )
        return tuple(value)

    def _layers(self) -> frozenset[int] | None:
        key = "layers_to_transform"
        value = self._values.get(key)
        if value is None or value == []:
            return None
        layers = value if isinstance(value, list) else [value]
        return frozenset(self.integer(layer, key, 0, _MAX_LAYER) for layer in layers)

    def _layers_pattern(self) -> tuple[str, ...]:
        value = self._values.get("layers_pattern")
        if isinstance(value, str):
            value = [value] if value else []
        elif value is None:
            return ()
        if not isinstance(value, list):
            raise AdapterRefused("layers_pattern is not a name or a list.", "layers_pattern")
        if len(value) > _MAX_LAYERS_PATTERNS:
            raise AdapterRefused(
                f"layers_pattern has {len(value)} names, over the limit of "
                f"{_MAX_LAYERS_PATTERNS}. Keep those of the base's lists of layers.",
                "layers_pattern",
            )
        for name in value:
            if not isinstance(name, str) or "." in name or not is_plain_name(name):
                raise AdapterRefused(
                    f"layers_pattern holds {quoted(name)}; use the plain name of the list of "
                    "layers, such as layers.",
                    "layers_pattern",
                )
        return tuple(value)
