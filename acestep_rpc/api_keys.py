"""API keys: long random words that stand for a tenant. A server knows their digests only."""

import hashlib
import secrets

PREFIX = "acestep_"
"""Of every key: keys are told from tokens, and found by scanners for leaked secrets."""

_RANDOM_BYTES = 32


def new_key() -> str:
    """Draw a key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def key_digest(key: str) -> str:
    """SHA-256 of a key, hex. A plain digest is enough for what nobody can guess."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
