"""A file system of a few megabytes of its own, and filling it to the last page."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096


@contextmanager
def small_disk(directory: Path, num_bytes: int) -> Iterator[Path]:
    """A tmpfs of that size. Skips the test where this process may not mount one."""
    place = directory / "small-disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes},mode=0700", "motet-test", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave(place: Path, num_pages: int) -> None:
    """Fill the disk until exactly that many pages are free."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    stats = os.statvfs(place)
    wanted = stats.f_bavail * stats.f_frsize - num_pages * PAGE
    with ballast.open("wb", buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(wanted, 1))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def release(place: Path) -> None:
    (place / "ballast").unlink()
