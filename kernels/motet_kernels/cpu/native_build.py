"""Compile the C++ of native/ into one shared library, once for each compiler and source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"

# Never -march=native: each level is compiled for its own instructions and chosen at run time, so a
# library made on one machine runs on any other. Products and sums are fused only where the source
# says so: a compiler that fuses as it likes would give a row other bits in another unrolling.
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden"),
    "-w",  # this compiler's own headers warn
)
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86_LEVELS: Mapping[str, tuple[str, ...]] = {
    "level_avx2.cpp": _AVX2,
    "level_avx512.cpp": _AVX512,
    "level_avx512_bf16.cpp": (*_AVX512, "-mavx512bf16"),
}
_TIMEOUT_S = 300


class BuildFailed(Exception):
    """The library cannot be made here; the message says why."""


def library_path() -> Path:
    """The compiled library: from the cache, or compiled into it now (seconds).

    The cache is MOTET_KERNEL_CACHE, or motet/kernels in the user's cache directory. Several
    processes may build at once: each makes its own file and renames it into place.
    Raises BuildFailed without a compiler or where compiling fails.
    """
    compiler = _compiler()
    directory = _cache_directory()
    path = directory / f"motet-kernels-{_key(compiler)}.so"
    if not path.exists():
        _build(compiler, path)
    return path


def _compiler() -> str:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    raise BuildFailed(f"no C++ compiler ({', '.join(wanted)}); install g++")


def _cache_directory() -> Path:
    """A directory that this user, or root, owns and others cannot write: we run what lies in it."""
    chosen = os.environ.get("MOTET_KERNEL_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(chosen) if chosen else Path(user_cache) / "motet" / "kernels"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        # A home that cannot be written, as in many containers: compiled anew by each process.
        return Path(tempfile.mkdtemp(prefix="motet-kernels-"))
    status = directory.stat()
    if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
        raise BuildFailed(
            f"{directory} belongs to or can be written by another user; "
            "name a directory of your own in MOTET_KERNEL_CACHE"
        )
    return directory


def _key(compiler: str) -> str:
    """Changes with the source, the compiler and the way it is called."""
    version = _run([compiler, "--version"])
    digest = hashlib.sha256(f"{compiler}\n{version}\n{_FLAGS}\n{_levels()}".encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def _levels() -> Mapping[str, tuple[str, ...]]:
    return _X86_LEVELS if os.uname().machine == "x86_64" else {}


def _build(compiler: str, path: Path) -> None:
    """Compile every source, all at once, and link them without an OpenMP library.

    torch's own, already in the process, serves: a second one would be a second pool of threads.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as scratch:
            objects = _compile(compiler, Path(scratch))
            library = Path(scratch) / path.name
            _run([compiler, "-shared", *objects, "-o", str(library)])
            os.replace(library, path)
    except OSError as error:
        raise BuildFailed(f"cannot write the kernels: {error}; set MOTET_KERNEL_CACHE") from error


def _compile(compiler: str, scratch: Path) -> list[str]:
    levels = _levels()
    running: list[tuple[str, subprocess.Popen[str]]] = []
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.name in _X86_LEVELS and source.name not in levels:
            continue
        target = str(scratch / f"{source.stem}.o")
        command = [compiler, *_FLAGS, *levels.get(source.name, ()), "-c", str(source), "-o", target]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.append((target, process))
    results = [(target, process, process.communicate()[1]) for target, process in running]
    for _, process, errors in results:
        if process.returncode:
            raise BuildFailed(f"{compiler} failed: {_last_lines(errors)}")
    return [target for target, _, _ in results]


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{command[0]} took longer than {_TIMEOUT_S} s") from error
    if done.returncode:
        raise BuildFailed(f"{command[0]} failed: {_last_lines(done.stderr)}")
    return done.stdout


def _last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])
