"""Recognises what people upload by mistake, to tell them the fix instead of "invalid file"."""

from motet_adapters.errors import AdapterRefused

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_ACCEPTED = (
    f"An adapter is two files, {CONFIG_FILE} and {WEIGHTS_FILE}, as "
    "model.save_pretrained(directory, safe_serialization=True) writes them."
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (or a PyTorch checkpoint, which is one)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself: git lfs pull)"),
    (b"<", "a web page or XML"),
    (b"{", "JSON text"),
)


def refuse_foreign_name(filename: str, shown: str) -> AdapterRefused:
    """The refusal of a file name that is neither of the two."""
    fix = _ACCEPTED
    if filename.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
        fix = f"Pickled weights are never read. {fix}"
    elif filename.endswith((".zip", ".tar", ".gz", ".tgz", ".xz", ".7z")):
        fix = f"Archives are never unpacked. {fix}"
    return AdapterRefused(f"The file {shown} is not accepted. {fix}", shown)


def refuse_missing(filename: str) -> AdapterRefused:
    return AdapterRefused(f"{filename} is missing. {_ACCEPTED}", filename)


def refuse_foreign_weights(beginning: bytes) -> None:
    """Raises AdapterRefused when the file's first bytes are those of a known other format.

    No safetensors file of a sane size begins like one of these: its first eight bytes are a
    length below 2^20, so bytes 3 to 7 are zero, and the signatures of fewer than four bytes are
    only taken for what they are when those are not.
    """
    if beginning[3:8] == b"\0\0\0\0\0":
        return
    for signature, kind in _FOREIGN:
        if beginning.startswith(signature):
            raise AdapterRefused(f"{WEIGHTS_FILE} is {kind}. {_ACCEPTED}", WEIGHTS_FILE)
