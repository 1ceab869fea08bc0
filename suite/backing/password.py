"""Passwords of the backing services: made once, kept in files that only their owner reads."""

from __future__ import annotations

import secrets
from pathlib import Path

from hedgerow.private_file import write_private

_BYTES = 32


def ensure_password(file: Path) -> str:
    """Return the password in a file; a random one is made at the first call."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(_BYTES).encode())
    return file.read_text()
