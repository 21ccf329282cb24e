"""Coverage-guided fuzzing of the readers of uploads, with atheris: `make fuzz` runs it.

    .venv/bin/python -m tests.fuzz.run SECONDS

SECONDS are shared by the readers. Ends with status 0 if there was no defect. A defect, 5 s for one
input or a gigabyte of memory ends it at once; the input is then left as crash-*, timeout-* or
oom-* in .cache/fuzz. Make a test of it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.seeds import dictionary, seeds

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / ".cache" / "fuzz"
READERS = ("header", "header-text", "config")
_MEMORY = Path("/dev/shm")


def main() -> None:
    seconds = int(sys.argv[1]) // len(READERS)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    for reader in READERS:
        # A file is written for each of thousands of inputs a second.
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
            flags = _flags(reader, seconds, Path(scratch))
            command = [sys.executable, "-m", "tests.fuzz.target", reader, scratch, *flags]
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status:
            sys.exit(f"The {reader} reader has a defect; its input is in {FINDINGS}.")


def _flags(reader: str, seconds: int, scratch: Path) -> list[str]:
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds(reader)):
        (corpus / str(number)).write_bytes(seed)
    words = scratch / "words"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in dictionary(reader))
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    return [
        f"-max_total_time={seconds}",
        f"-dict={words}",
        f"-artifact_prefix={FINDINGS}/",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-max_len=20000",
        "-print_final_stats=1",
        str(corpus),
    ]


if __name__ == "__main__":
    main()
