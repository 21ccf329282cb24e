"""The kernel-ready form of an adapter for one base and one dtype: a single flat buffer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from motet_kernels import Activation
from torch import Tensor

from motet_adapters.families.plan import Basis, SitePlan

ALIGNMENT = 64  # bytes: a cache line, and what vector loads on every target like


class Part(NamedTuple):
    """Where one tensor of a site lies."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the buffer's start, a multiple of ALIGNMENT


class Entry(NamedTuple):
    """One site: its parts by name, and those it takes from bases that tenants share."""

    parts: Mapping[str, Part]
    activation: Activation
    bases: Mapping[str, Basis]


class SiteParts(NamedTuple):
    """One site's tensors by part name (see `SitePlan`), and its activation."""

    tensors: Mapping[str, Tensor]
    activation: Activation = "identity"


Views = Mapping[str, SiteParts]
"""By the path of the site."""

FindBasis = Callable[[Basis], Tensor]
"""A tensor of a shared basis, on the device that the buffer is on."""


def no_basis(basis: Basis) -> Tensor:
    """For buffers that have none. Raises KeyError."""
    raise KeyError(basis)


@dataclass(frozen=True)
class Layout:
    """Entries and the size of the buffer that holds them."""

    entries: Mapping[str, Entry]
    num_bytes: int

    @classmethod
    def of(cls, sites: Iterable[SitePlan], dtype: torch.dtype) -> "Layout":
        """Lay the sites' parts out one after the other, each tensor aligned.

        dtype: of parts that name none.
        """
        entries: dict[str, Entry] = {}
        end = 0
        for site in sites:
            parts: dict[str, Part] = {}
            for name, spec in site.parts.items():
                part = Part(spec.dtype or dtype, spec.shape, end)
                end = aligned(end + torch.Size(part.shape).numel() * part.dtype.itemsize)
                parts[name] = part
            entries[site.path] = Entry(parts, site.activation, dict(site.bases))
        return cls(entries, end)


@dataclass(frozen=True)
class Image:
    """An adapter lowered for one base and dtype. `buffer` is never written after construction."""

    digest: str
    dtype: torch.dtype
    buffer: Tensor  # uint8 [num_bytes]
    entries: Mapping[str, Entry]
    shared: Mapping[str, "Image"] = field(default_factory=dict, repr=False)
    """The bases that it needs beside its own bytes, by digest: each an image of one site."""

    @property
    def num_bytes(self) -> int:
        return self.buffer.numel()

    @property
    def bases(self) -> frozenset[str]:
        """Digests of the shared bases that it needs beside its own bytes."""
        return frozenset(
            digest for entry in self.entries.values() for digest, _ in entry.bases.values()
        )

    def views(self, buffer: Tensor, find_basis: FindBasis | None = None) -> Views:
        """The sites' tensors, as views into `buffer` and what `find_basis` has.

        `buffer` is uint8 [num_bytes] with this image's bytes, on any device. find_basis None: the
        bases are read where `shared` has them, on the host.
        """
        return views_into(buffer, self.entries, find_basis or self._find_basis)

    def _find_basis(self, basis: Basis) -> Tensor:
        digest, tensor = basis
        held = self.shared[digest]
        (site,) = held.views(held.buffer).values()
        return site.tensors[tensor]


def views_into(
    buffer: Tensor, entries: Mapping[str, Entry], find_basis: FindBasis = no_basis
) -> Views:
    """The tensors of a laid-out buffer, without copying."""
    if buffer.dtype != torch.uint8 or buffer.dim() != 1:
        raise ValueError("an image's buffer is a one-dimensional uint8 tensor")

    def view(part: Part) -> Tensor:
        count = torch.Size(part.shape).numel() * part.dtype.itemsize
        return buffer[part.offset : part.offset + count].view(part.dtype).view(part.shape)

    return {
        path: SiteParts(
            {name: view(part) for name, part in entry.parts.items()}
            | {name: find_basis(basis) for name, basis in entry.bases.items()},
            entry.activation,
        )
        for path, entry in entries.items()
    }


def aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment
