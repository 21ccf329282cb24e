"""The C++ of native/ as one library: prebuilt, or compiled once for each compiler and source."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
# Libraries that came with the package, for machines without a compiler: `build --prebuilt`.
PREBUILT = Path(__file__).parent / "prebuilt"

# Never -march=native: each level is compiled for its own instructions and chosen at run time, so a
# library made on one machine runs on any other. Products and sums are fused only where the source
# says so: a compiler that fuses as it likes would give a row other bits in another unrolling.
_FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden"),
    "-w",  # this compiler's own headers warn
)
# A compiler driver for C (CXX=gcc) would leave it out.
_LIBRARIES = ("-lstdc++",)
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86_LEVELS: Mapping[str, tuple[str, ...]] = {
    "level_avx2.cpp": _AVX2,
    "level_avx512.cpp": _AVX512,
    "level_avx512_bf16.cpp": (*_AVX512, "-mavx512bf16"),
    "level_avx512_vnni.cpp": (*_AVX512, "-mavx512bf16", "-mavx512vnni"),
    "level_amx_bf16.cpp": (*_AVX512, "-mavx512bf16"),
    "level_amx_bf16_emulated.cpp": (*_AVX512, "-mavx512bf16"),
}
_TIMEOUT_S = 300


_log = logging.getLogger(__name__)


class BuildFailed(Exception):
    """The library cannot be had here.

    The message says everything and is for the log. `reason` and `fix` are fixed words without a
    path in them, fit for anyone to read.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "the compiled library cannot be loaded",
        fix: str = "see the log",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.fix = fix


def library_path() -> Path:
    """The compiled library: prebuilt, from the cache, or compiled into the cache now (seconds).

    Raises BuildFailed where there is none and it cannot be made.
    """
    return prebuilt_library() or cached_library()


def prebuilt_library() -> Path | None:
    """The library in PREBUILT that was made from exactly these sources, if it is there.

    One that another user could have written is not used, and the log says so.
    """
    path = _prebuilt_path()
    if not path.exists():
        return None
    if not (_only_ours(PREBUILT) and _only_ours(path)):
        _log.warning("%s is not used: it belongs to or can be written by another user", path)
        return None
    return path


def make_prebuilt() -> Path:
    """Compile the library into PREBUILT, anew in any case.

    Raises BuildFailed like `cached_library`, OSError where PREBUILT cannot be written.
    """
    path = _prebuilt_path()
    compiler = _compiler()
    PREBUILT.mkdir(mode=0o755, exist_ok=True)
    _build(compiler, path)
    return path


def _prebuilt_path() -> Path:
    return PREBUILT / f"motet-kernels-{_source_digest()[:24]}.so"


def cached_library() -> Path:
    """The library of this machine's compiler: from the cache, or compiled into it now.

    The cache is MOTET_KERNEL_CACHE, or motet/kernels in the user's cache directory. Several
    processes may build at once: each makes its own file and renames it into place.
    Raises BuildFailed without a compiler or where compiling fails.
    """
    compiler = _compiler()
    directory = _cache_directory()
    path = directory / f"motet-kernels-{_key(compiler)}.so"
    try:
        if not path.exists():
            _build(compiler, path)
    except OSError as error:
        fix = "set MOTET_KERNEL_CACHE"
        raise BuildFailed(
            f"cannot write the kernels: {error}; {fix}",
            reason="the kernel cache cannot be written",
            fix=fix,
        ) from error
    return path


def _compiler() -> str:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in wanted:
        found = shutil.which(name)
        if found:
            return found
    raise BuildFailed(
        f"no C++ compiler ({', '.join(wanted)}); install g++",
        reason="no C++ compiler",
        fix="install g++",
    )


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
    if not _only_ours(directory):
        raise BuildFailed(
            f"{directory} belongs to or can be written by another user; "
            "name a directory of your own in MOTET_KERNEL_CACHE",
            reason="the kernel cache belongs to or can be written by another user",
            fix="name a directory of your own in MOTET_KERNEL_CACHE",
        )
    return directory


def _only_ours(path: Path) -> bool:
    """Whether this user or root owns it and others cannot write it."""
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def _key(compiler: str) -> str:
    """Changes with the source, the compiler and the way it is called."""
    version = _run([compiler, "--version"])
    described = f"{compiler}\n{version}\n{_source_digest()}"
    return hashlib.sha256(described.encode()).hexdigest()[:24]


def _source_digest() -> str:
    """Changes with the source, the kind of machine and the flags, whatever the compiler."""
    how = f"{os.uname().machine}\n{_FLAGS}\n{_LIBRARIES}\n{_levels()}"
    digest = hashlib.sha256(how.encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h"):
            content = path.read_bytes()
            digest.update(f"\n{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _levels() -> Mapping[str, tuple[str, ...]]:
    return _X86_LEVELS if os.uname().machine == "x86_64" else {}


def _build(compiler: str, path: Path) -> None:
    """Compile every source, all at once, and link them without an OpenMP library.

    torch's own, already in the process, serves: a second one would be a second pool of threads.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as scratch:
        objects = _compile(compiler, Path(scratch))
        library = Path(scratch) / path.name
        _run([compiler, "-shared", *objects, *_LIBRARIES, "-o", str(library)])
        library.chmod(0o644)  # whatever the umask: what others can write is not loaded
        os.replace(library, path)


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
            raise _compiler_failed(f"{compiler} failed: {_last_lines(errors)}")
    return [target for target, _, _ in results]


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise _compiler_failed(f"{command[0]} took longer than {_TIMEOUT_S} s") from error
    if done.returncode:
        raise _compiler_failed(f"{command[0]} failed: {_last_lines(done.stderr)}")
    return done.stdout


def _compiler_failed(message: str) -> BuildFailed:
    return BuildFailed(
        message,
        reason="the C++ compiler failed",
        fix="install another g++ or name one in CXX (the log has its message)",
    )


def _last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])
