"""The base model: found, quantised to NF4 once, kept on disk, and built from there."""

from motet.engine.base.opening import open_base
from motet.engine.base.progress import Progress
from motet.engine.base.quantized_base import QuantizedBase
from motet.errors import UnsupportedModel

__all__ = ["Progress", "QuantizedBase", "UnsupportedModel", "open_base"]
