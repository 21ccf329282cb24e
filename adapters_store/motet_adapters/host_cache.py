"""The host tier: images in memory up to a budget of bytes, least recently used leave first."""

import threading
from collections import OrderedDict

from motet_adapters.image import Image


class HostCache:
    """Thread-safe. An image that leaves lives on for as long as a loader still copies from it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._num_bytes = 0
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
        """Keep the image, unless it is larger than the whole budget."""
        with self._lock:
            self._discard(image.digest)
            if image.num_bytes > self._max_bytes:
                return
            self._images[image.digest] = image
            self._num_bytes += image.num_bytes
            while self._num_bytes > self._max_bytes:
                self._discard(next(iter(self._images)))

    def discard(self, digest: str) -> None:
        with self._lock:
            self._discard(digest)

    def _discard(self, digest: str) -> None:
        image = self._images.pop(digest, None)
        if image is not None:
            self._num_bytes -= image.num_bytes
