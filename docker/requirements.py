"""Prints what pyproject.toml depends on, one requirement a line, for pip.

An image installs these in a layer of their own, which only a change of pyproject.toml makes anew.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path) -> dict[str, str]:
    """Name -> requirement, in the file's order."""
    listed: list[str] = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return {re.split(r"[^\w.-]", entry, maxsplit=1)[0]: entry for entry in listed}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the dependencies of ./pyproject.toml.")
    parser.add_argument("--only", metavar="NAME", help="print this one alone")
    parser.add_argument("--without", metavar="NAME", help="leave this one out")
    chosen = parser.parse_args()
    found = requirements(Path("pyproject.toml"))
    for name in filter(None, (chosen.only, chosen.without)):
        if name not in found:
            sys.exit(f"pyproject.toml does not depend on {name}; correct the Dockerfile.")
    for name, entry in found.items():
        if name != chosen.without and chosen.only in (None, name):
            sys.stdout.write(f"{entry}\n")


if __name__ == "__main__":
    main()
