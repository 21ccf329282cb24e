"""What the model is computed with, as operators are told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelsInUse:
    """Fit for anyone to read: no path of the machine is in it."""

    implementation: str
    reason: str | None = None  # what keeps faster ones from serving
    fix: str | None = None  # what to do about that
