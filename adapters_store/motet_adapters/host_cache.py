"""The host tier: images in memory up to a budget of bytes, least recently used leave first."""

import threading
from collections import Counter, OrderedDict

from motet_adapters.image import Image


class HostCache:
    """Thread-safe. An image that leaves lives on for as long as a loader still copies from it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._num_bytes = 0
        self._users: Counter[str] = Counter()  # of each basis, among the images
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, digest: str) -> Image | None:
        with self._lock:
            image = self._images.get(digest)
            if image is not None:
                self._images.move_to_end(digest)
            return image

    def put(self, image: Image) -> None:
        """Keep the image and its bases, unless they are larger than the whole budget."""
        with self._lock:
            self._discard(image.digest)
            bases = image.shared.values()
            if image.num_bytes + sum(basis.num_bytes for basis in bases) > self._max_bytes:
                return
            self._images[image.digest] = image
            self._num_bytes += image.num_bytes
            for basis in bases:
                self._num_bytes += 0 if self._users[basis.digest] else basis.num_bytes
                self._users[basis.digest] += 1
            while self._num_bytes > self._max_bytes:
                self._discard(next(iter(self._images)))

    def discard(self, digest: str) -> None:
        with self._lock:
            self._discard(digest)

    def _discard(self, digest: str) -> None:
        image = self._images.pop(digest, None)
        if image is not None:
            self._num_bytes -= image.num_bytes
            for basis in image.shared.values():
                self._users[basis.digest] -= 1
                if not self._users[basis.digest]:
                    del self._users[basis.digest]
                    self._num_bytes -= basis.num_bytes
