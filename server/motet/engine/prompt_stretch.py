"""The parts of a prompt that may be shared, and what each was computed from."""

from __future__ import annotations

import hashlib
from array import array

from motet.engine.prefix_cache import Stretch
from motet.engine.sequence import Sequence


def stretches(sequence: Sequence, grain: int, block_size: int) -> tuple[Stretch, ...]:
    """The stretches of a prompt, one after the other, up to its last multiple of `grain`.

    grain: the least common multiple of the chunk length and `block_size`. A sequence that begins
    at such a position has the very chunks behind it that it would have had from the start on, and
    the chunks before it were whole ones. So every token is computed in the same shape, and to the
    same bits, whether what is before it was found or computed.

    Two stretches have one key only if all of this is alike: the tenant, every token up to their
    end, and which adapter, if any, each of these tokens ran on. The key is a SHA-256, so no tenant
    can make two prompts collide.
    """
    adapter = sequence.request.adapter
    key = hashlib.sha256(sequence.request.tenant.encode()).digest()
    first = sequence.num_virtual
    start = first // block_size * block_size
    found = []
    for stop in range(first // grain * grain + grain, sequence.prompt_end + 1, grain):
        is_adapted = adapter is not None and sequence.adapted_from < stop
        digest = adapter.digest if adapter is not None and is_adapted else None
        adapted_from = max(sequence.adapted_from, start) if is_adapted else stop
        link = hashlib.sha256(key)
        link.update(f"{digest or 'base'} {adapted_from} ".encode())
        link.update(array("q", sequence.ids(max(start, first), stop)).tobytes())
        key = link.digest()
        found.append(Stretch(key, start, stop, digest))
        start = stop
    return tuple(found)
