"""Building the native library: cached, safe with several processes, and refused with a reason."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from motet_kernels.cpu import build, native_build
from motet_kernels.cpu.native_build import BuildFailed, library_path, make_prebuilt
from motet_kernels.cpu.native_library import NativeLibrary, runnable_levels

TRIVIAL = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a source of the test's own."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "trivial.cpp").write_text(TRIVIAL)
    monkeypatch.setattr(native_build, "SOURCES", sources)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setenv("MOTET_KERNEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_built_once_and_anew_for_other_source(cache: Path) -> None:
    first = library_path()
    made = first.stat().st_mtime_ns
    assert library_path() == first
    assert first.stat().st_mtime_ns == made
    (native_build.SOURCES / "trivial.cpp").write_text(TRIVIAL.replace("42", "43"))
    assert library_path() != first
    assert {path.suffix for path in cache.iterdir()} == {".so"}


def test_several_builders_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: library_path(), range(3)))
    assert len(set(paths)) == 1
    assert list(cache.iterdir()) == paths[:1]


@pytest.mark.usefixtures("cache")
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildFailed, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        library_path()


@pytest.mark.usefixtures("cache")
def test_a_driver_for_c_links_the_library_of_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    throws = TRIVIAL.replace("return 42;", "try { throw 42; } catch (int n) { return n; }")
    (native_build.SOURCES / "trivial.cpp").write_text(throws)
    monkeypatch.setenv("CXX", "gcc")
    # A process of its own: torch has brought the library into this one.
    call = f"import ctypes; print(ctypes.CDLL({str(library_path())!r}).answer())"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert done.stdout == "42\n", done.stderr


def test_source_that_does_not_compile(cache: Path) -> None:
    (native_build.SOURCES / "wrong.cpp").write_text("int wrong(")
    with pytest.raises(BuildFailed, match="failed: "):
        library_path()
    assert list(cache.iterdir()) == []


def test_a_cache_that_others_can_write_is_refused(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    with pytest.raises(BuildFailed, match="MOTET_KERNEL_CACHE"):
        library_path()


def test_without_a_cache_that_can_be_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOTET_KERNEL_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(native_build.tempfile, "tempdir", str(tmp_path))
    assert library_path().exists()
    assert not cache.exists()


def test_a_prebuilt_library_needs_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_prebuilt()
    assert made.parent == native_build.PREBUILT
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library_path() == made
    assert ctypes.CDLL(str(made)).answer() == 42
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("changed", ["source", "header", "flags", "machine"])
def test_a_prebuilt_library_of_something_else_is_not_loaded(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (native_build.SOURCES / "trivial.h").write_text("")
    made = make_prebuilt()
    if changed == "source":
        (native_build.SOURCES / "trivial.cpp").write_text(TRIVIAL.replace("42", "43"))
    elif changed == "header":
        (native_build.SOURCES / "trivial.h").write_text(" ")
    elif changed == "flags":
        monkeypatch.setattr(native_build, "_FLAGS", (*native_build._FLAGS, "-O2"))
    else:
        other = SimpleNamespace(machine="riscv64")
        monkeypatch.setattr(native_build.os, "uname", lambda: other)
    assert library_path() != made
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildFailed, match="no C\\+\\+ compiler"):
        library_path()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("whole", [True, False], ids=["directory", "file"])
def test_a_prebuilt_library_that_others_can_write_is_not_loaded(
    whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_prebuilt()
    loose = made.parent if whole else made
    loose.chmod(0o775)
    assert library_path() != made
    assert f"{made} is not used" in caplog.text
    loose.chmod(0o755)
    assert library_path() == made


@pytest.mark.usefixtures("cache")
def test_a_prebuilt_library_of_another_user_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_prebuilt()
    if made.stat().st_uid == 0:  # root's may be used by everyone
        os.chown(made, 12345, 0)
    else:
        monkeypatch.setattr(native_build.os, "getuid", lambda: 12345)
    assert native_build.prebuilt_library() is None


def test_the_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*flags: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["build", *flags])
        return build.main(), capsys.readouterr().out

    code, text = said()
    (path,) = cache.iterdir()
    assert code == 0
    assert re.fullmatch(rf"The native CPU kernels were compiled in \d+ s: {path}\n", text)
    assert said() == (0, f"The native CPU kernels are there already: {path}\n")
    code, text = said("--prebuilt")
    (shipped,) = native_build.PREBUILT.iterdir()
    assert code == 0
    assert text.endswith(f"compiled in 0 s: {shipped}\n")
    assert said() == (0, f"The native CPU kernels are there already: {shipped}\n")

    monkeypatch.setenv("CXX", "no-such-compiler")
    code, text = said("--prebuilt")
    assert code == 1
    assert "no C++ compiler (no-such-compiler); install g++" in text
    assert "torch serves" in text


def test_levels() -> None:
    runnable = runnable_levels()
    assert runnable[-1] == "portable"
    assert NativeLibrary().level == runnable[0]
    with pytest.raises(ValueError, match="this machine cannot run avx1024"):
        NativeLibrary("avx1024")
