"""A policy bundle as governance keeps it. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """Policies and principals as one signed unit.

    Attributes:
        version: grows with each bundle.
        content: the canonical JSON that is signed.
        signature: by signingKeys/governance-policy.
        key_version: of that key.
        create_ns: when it was published, nanoseconds since 1970.
    """

    version: int
    content: bytes
    signature: bytes
    key_version: int
    create_ns: int

    @property
    def etag(self) -> str:
        """Changes with the bundle."""
        return hashlib.sha256(self.content).hexdigest()[:32]
