"""The command line: `motet serve` and everything around it."""

from motet.cli.app import main

__all__ = ["main"]
