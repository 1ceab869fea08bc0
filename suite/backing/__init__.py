"""The backing services of the distributed profile on one machine: PostgreSQL, Valkey and SeaweedFS, from wheels.

Each module has one class with the shape of ``Backing``: what to run and how to ask after it. Starting, restarting and
stopping the process is the caller's part, as with ``suite.openbao``. On 127.0.0.1 only, over TLS only, and behind a
password that the class makes at its first ``prepare`` and keeps in a file of mode 0600.

    postgres.Postgres(folder, port, tls)
    valkey.Valkey(folder, port, tls)
    seaweedfs.SeaweedFS(folder, port, tls)

``tls`` names a certificate of the server for ``localhost`` and 127.0.0.1, its key, and the CA that signed it; files of
mode 0600 that the caller owns. What each needs of the caller:

1. ``prepare()`` before each start: it blocks (a first ``initdb`` takes a few seconds) and may be repeated.
2. run ``command()`` with exactly ``environment()``; SIGTERM ends it in an orderly way. It may have children, which end
   with it.
3. poll ``is_healthy()`` (blocks for a second at most) until True. The first True also means that what services need is
   there: databases and roles, users, buckets.
4. give each service ``service_environment(service)``; nothing in it is secret, passwords are named by file.

``ports`` lists every port on 127.0.0.1 that it takes, by use, the given one among them: a class that needs more than
one takes the next ones up (SeaweedFS: 8 in a row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server.

    Attributes:
        certificate: chain of the server, leaf first, for ``localhost`` and 127.0.0.1.
        key: its private key.
        ca: whom clients trust.
    """

    certificate: Path
    key: Path
    ca: Path


class Backing(Protocol):
    """One backing service as a process."""

    @property
    def name(self) -> str:
        """``postgres``, ``valkey`` or ``seaweedfs``."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Ports on 127.0.0.1, by use."""

    def prepare(self) -> None:
        """Make folders, passwords and configuration; blocks."""

    def command(self) -> list[str]:
        """What to run."""

    def environment(self) -> dict[str, str]:
        """Its whole environment."""

    def is_healthy(self) -> bool:
        """Whether it serves and holds what services need; blocks for a few seconds at most and never raises."""

    def service_environment(self, service: str) -> dict[str, str]:
        """The ``HEDGEROW_…`` variables with which a service uses it; empty for one that has no use for it."""
