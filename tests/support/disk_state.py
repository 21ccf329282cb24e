"""What a store holds, to show that a refused upload changed nothing."""

import hashlib
import sqlite3
from pathlib import Path


def disk_state(root: Path) -> tuple[dict[str, str], list[tuple[object, ...]]]:
    """Every file with the hash of its bytes (SQLite's own aside) and every row of the adapters."""
    files = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("motet.sqlite3")
    }
    directories = {str(path.relative_to(root)): "" for path in root.rglob("*") if path.is_dir()}
    connection = sqlite3.connect(f"file:{root}/motet.sqlite3?mode=ro", uri=True)
    try:
        rows = [
            row
            for table in ("adapters", "versions", "blobs")
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        ]
    finally:
        connection.close()
    return files | directories, rows
