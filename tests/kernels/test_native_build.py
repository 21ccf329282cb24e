"""Building the native library: cached, safe with several processes, and refused with a reason."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from motet_kernels.cpu import native_build
from motet_kernels.cpu.native_build import BuildFailed, library_path
from motet_kernels.cpu.native_library import NativeLibrary, runnable_levels

TRIVIAL = 'extern "C" int answer() { return 42; }'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a source of the test's own."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "trivial.cpp").write_text(TRIVIAL)
    monkeypatch.setattr(native_build, "SOURCES", sources)
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


def test_levels() -> None:
    runnable = runnable_levels()
    assert runnable[-1] == "portable"
    assert NativeLibrary().level == runnable[0]
    with pytest.raises(ValueError, match="this machine cannot run avx1024"):
        NativeLibrary("avx1024")
