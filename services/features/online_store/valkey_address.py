"""Where the online store's server is, and how it is reached: TLS that proves the server, and a password or certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.exceptions import AuthenticationError

from hedgerow.errors import InvalidArgumentError

_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


@dataclass(frozen=True)
class ValkeyAddress:
    """A server.

    Attributes:
        database: its number; nothing else may use it.
        user: empty for the default one.
        password_file: read for each connection, so that a changed password is taken up.
        files: CA, and client certificate and key, by the parameter that names them.
    """

    host: str
    port: int
    database: int
    user: str
    password_file: Path | None
    files: tuple[tuple[str, str], ...]
    timeout_seconds: float = 5.0

    def connection(self) -> dict[str, Any]:
        """Return what the client is told of each connection."""
        return {
            "host": self.host,
            "port": self.port,
            "db": self.database,
            "credential_provider": self if self.password_file else None,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "socket_timeout": self.timeout_seconds,
            "socket_connect_timeout": self.timeout_seconds,
            **dict(self.files),
        }

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, and the user when there is one: what the client calls a credential provider.

        Raises:
            AuthenticationError: it cannot be read. The client lets go of a connection on errors of its own alone.
        """
        try:
            password = self.password_file.read_text().strip() if self.password_file else ""
        except (OSError, UnicodeError) as error:
            raise AuthenticationError("the password cannot be read") from error
        return (self.user, password) if self.user else (password,)


def parse_address(url: str, password_file: Path | None) -> ValkeyAddress:
    """Return an address that is safe to connect to.

    Args:
        url: ``rediss://[user@]host[:port][/database]?ssl_ca_certs=/path``, and ``ssl_certfile`` and ``ssl_keyfile`` for a
            client certificate.
        password_file: holds the password; None needs a client certificate.

    Raises:
        InvalidArgumentError: it cannot be accepted; the field is named and its content never repeated.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=True))
    except ValueError as error:
        raise _refused("online_url", "is no URL; expected rediss://host:port/0?ssl_ca_certs=…") from error
    unknown = sorted(set(query) - _FILES)
    path = parts.path.strip("/")
    rules = [
        (parts.scheme == "rediss", "must begin with rediss://; nothing goes over the network in clear"),
        (parts.password is None, "must hold no password; name its file in online_password_file"),
        (bool(parts.hostname), "must name a host"),
        (path.isdecimal() or not path, "must end with the number of a database"),
        (not unknown, f"has the parameter {unknown[0] if unknown else ''!r}; known are {', '.join(sorted(_FILES))}"),
        ("ssl_ca_certs" in query, "must name the CA of the server as ssl_ca_certs"),
        (("ssl_certfile" in query) == ("ssl_keyfile" in query), "must name ssl_certfile and ssl_keyfile together"),
    ]
    for holds, demand in rules:
        if not holds:
            raise _refused("online_url", demand)
    for name, file in query.items():
        if not Path(file).is_file():
            raise _refused("online_url", f"names a {name} that is no file")
    if password_file is None and "ssl_certfile" not in query:
        raise _refused("online_password_file", "is needed, unless online_url names a client certificate")
    if password_file is not None:
        try:
            password_file.read_text()
        except (OSError, UnicodeError) as error:
            raise _refused("online_password_file", "cannot be read") from error
    user = unquote(parts.username or "")
    return ValkeyAddress(str(parts.hostname), port, int(path or 0), user, password_file, tuple(sorted(query.items())))


def _refused(field: str, demand: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {demand}", fields={field: demand})
