"""What a name of a tenant stands for: its versions, one of which is served."""

from dataclasses import dataclass

from motet_adapters.adapter import Adapter
from motet_adapters.errors import VersionNotFound


@dataclass(frozen=True, slots=True)
class Versions:
    """All kept versions of one name, newest first; never empty.

    While the current one has expired the whole name counts as missing.
    """

    current: Adapter
    all: tuple[Adapter, ...]

    @property
    def tenant(self) -> str:
        return self.current.tenant

    @property
    def name(self) -> str:
        return self.current.name

    def get(self, number: int) -> Adapter:
        """Raises VersionNotFound."""
        for version in self.all:
            if version.number == number:
                return version
        raise VersionNotFound(self.name, number)

    def before_current(self) -> Adapter | None:
        """The newest of those that are older than the current one."""
        return next((one for one in self.all if one.number < self.current.number), None)
