"""Bytes in, leased adapters out. Knows nothing of HTTP or the engine."""
