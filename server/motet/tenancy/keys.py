"""Keys: 256 random bits each, shown once, kept only as a digest."""

import hashlib
import secrets

KEY_PREFIX = "motet_"
_KEY_BYTES = 32
_ID_DIGITS = 12
# A key is 49 characters. Anything much longer is refused before it is hashed.
_MAX_KEY_CHARS = 512


def new_key() -> str:
    """A fresh key. A fast hash is enough for it: 256 random bits cannot be guessed offline."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_digest(key: str) -> bytes | None:
    """SHA-256 of a key as a client sent it; None for text that no key could be."""
    if not 0 < len(key) <= _MAX_KEY_CHARS:
        return None
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def key_id(digest: bytes) -> str:
    """The public name of a key, to list and revoke it by. Says nothing useful about the key."""
    return digest.hex()[:_ID_DIGITS]


def same_key(first: bytes, second: bytes) -> bool:
    """Compares two key digests in a time that does not depend on where they differ."""
    return secrets.compare_digest(first, second)
