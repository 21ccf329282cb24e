"""Opening a base model: find it, quantise it once, map it ever after."""

from pathlib import Path
from typing import Any

from motet.engine.base.base_cache import BaseCache, cache_key
from motet.engine.base.demo_source import DemoSource
from motet.engine.base.directory_source import DirectorySource
from motet.engine.base.gguf_source import GgufSource
from motet.engine.base.hub_source import HubSource
from motet.engine.base.original_weights import OriginalWeights
from motet.engine.base.progress import Progress, silent
from motet.engine.base.quantized_base import QuantizedBase, read_base
from motet.engine.base.quantizing import quantize_linears
from motet.engine.base.saving import save_base
from motet.engine.base.source import Source
from motet.errors import UnsupportedModel


def open_base(
    source: str | None,
    *,
    cache_dir: Path,
    double_quant: bool = False,
    progress: Progress | None = None,
) -> QuantizedBase:
    """The base model `source` names, quantised to NF4 under `cache_dir`/bases.

    source: a checkpoint directory (safetensors), a .gguf file, a hub id, or None for the demo base.
    double_quant: also quantise the block scales, as bitsandbytes' compress_statistics; without
        effect on a checkpoint that is quantised already.
    progress: told what is being done, for as long as there is something to do.

    Weights are taken as bf16 whatever they are stored in, as QLoRA training commonly does. The
    first call for a source reads and quantises it (minutes for a large model); later ones map
    the files made then. Raises UnsupportedModel with a sentence that says what to do.
    """
    found = find_source(source, kept=cache_dir / "demo")
    report = progress or silent
    identity = found.identity()
    key = cache_key(identity, double_quant=double_quant)
    cache = BaseCache(cache_dir / "bases")

    def write(directory: Path, scratch: Path) -> dict[str, Any]:
        loaded = found.load(scratch, report)
        weights = quantize_linears(loaded.model, double_quant=double_quant, progress=report)
        report("Writing the quantised base", 1.0)
        return save_base(directory, loaded, weights, found.description)

    manifest = cache.find(key) or cache.build(key, write)
    original = OriginalWeights(
        found, identity, cache_dir / "originals" / f"{key}.safetensors", manifest["linears"]
    )
    return read_base(cache.directory(key), found.name, manifest, original)


def find_source(source: str | None, *, kept: Path | None = None) -> Source:
    """What `--base` means. Raises UnsupportedModel for a file or path of no known kind.

    kept: where the demo's file stays once it has been downloaded.
    """
    if source is None:
        return DemoSource(kept)
    path = Path(source).expanduser()
    if path.is_dir():
        return DirectorySource(path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UnsupportedModel(f"There is no file {source}. Check the path.")
        return GgufSource(path)
    if path.exists():
        raise UnsupportedModel(
            f"{source} is a single file that is no .gguf. Give a checkpoint directory, a .gguf "
            "file or a hub id."
        )
    return HubSource(source)
