"""The fuzzed process, which libFuzzer ends without a word to Python; tests.fuzz.run starts it.

python -m tests.fuzz.target READER DIRECTORY LIBFUZZER_ARGUMENTS...
"""

import sys
from pathlib import Path

import atheris

# Before torch is imported, so that atheris sees Motet's modules come in, and only those.
with atheris.instrument_imports(include=["motet_adapters"], enable_loader_override=False):
    from tests.fuzz.readers import Readers


def main() -> None:
    reader, directory, *flags = sys.argv[1:]
    read = Readers(Path(directory)).by_name()[reader]

    def once(data: bytes) -> None:
        read(data)

    atheris.Setup([sys.argv[0], *flags], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
