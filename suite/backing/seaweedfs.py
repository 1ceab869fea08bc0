"""SeaweedFS as a local object store: master, volume, filer and S3 in one process, and one bucket for the lake.

S3 speaks HTTPS and wants signed requests. What the parts say to each other goes over gRPC with mutual TLS and over HTTP on
127.0.0.1, where nobody reads or writes without a token that a key of this folder signs.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.private_file import write_private
from suite.backing import TlsFiles
from suite.backing.inner_certificate import ensure_inner_certificate
from suite.backing.password import ensure_password

if TYPE_CHECKING:
    from pyarrow import fs

BUCKET = "hedgerow-lake"
ACCESS_KEY = "hedgerow"
_USES = ("s3", "s3 grpc", "master", "master grpc", "volume", "volume grpc", "filer", "filer grpc")
_PARTS = ("volume", "master", "filer", "s3", "client")


class SeaweedFS:
    """See ``suite.backing.Backing``."""

    name = "seaweedfs"

    def __init__(self, folder: Path, port: int, tls: TlsFiles) -> None:
        """Name the parts.

        Args:
            folder: data, configuration and the secret key.
            port: of S3 on 127.0.0.1; the ports behind it are of its parts.
            tls: the server's certificate.
        """
        self.folder = folder.resolve()
        self.secret_key_file = self.folder / "secret_key"
        self._tls = tls
        self._ports = {use: port + number for number, use in enumerate(_USES)}
        self._is_set_up = False

    @property
    def ports(self) -> Mapping[str, int]:
        """S3 and the parts behind it."""
        return self._ports

    def prepare(self) -> None:
        """Make the folder, the keys and the configuration."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        secret_key = ensure_password(self.secret_key_file)
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": secret_key}]
        identity = {
            "name": ACCESS_KEY,
            "credentials": credentials,
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(self.folder / "s3.json", json.dumps({"identities": [identity]}).encode())
        write_private(self.folder / "security.toml", self._security().encode())

    def command(self) -> list[str]:
        """The server; it looks for ``security.toml`` in its folder."""
        ports = self._ports
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.config": self.folder / "s3.json",
            "s3.cert.file": self._tls.certificate.resolve(),
            "s3.key.file": self._tls.key.resolve(),
            "s3.port": ports["s3"],
            "s3.port.grpc": ports["s3 grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.iam": "false",
            "master.port": ports["master"],
            "master.port.grpc": ports["master grpc"],
            # There is nobody to lose an election to.
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 256,
            "master.telemetry": "false",
            "volume.port": ports["volume"],
            "volume.port.grpc": ports["volume grpc"],
            "volume.port.public": ports["volume"],
            "volume.max": 64,
            "volume.preStopSeconds": 0,
            "filer.port": ports["filer"],
            "filer.port.grpc": ports["filer grpc"],
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        return [str(_program()), f"-config_dir={self.folder}", "-logtostderr=true", "server", *arguments]

    def environment(self) -> dict[str, str]:
        """A home, in which it looks for configuration."""
        return {"HOME": str(self.folder)}

    def is_healthy(self) -> bool:
        """Whether S3 answers and has the bucket."""
        from pyarrow import fs

        try:
            files = self._files()
            if not self._is_set_up:
                files.create_dir(BUCKET)
                # A bucket can be listed before the first volume can be written.
                with files.open_output_stream(f"{BUCKET}/.ready") as stream:
                    stream.write(b"ready")
                files.delete_file(f"{BUCKET}/.ready")
                self._is_set_up = True
            return bool(files.get_file_info(BUCKET).type == fs.FileType.Directory)
        except OSError:
            return False

    def service_environment(self, service: str) -> dict[str, str]:
        """The lake of the services that read or write it."""
        if service not in ("ingestion", "features"):
            return {}
        where = {"HEDGEROW_LAKE_LOCATION": f"s3://{BUCKET}/lake"} if service == "ingestion" else {}
        return where | {
            "HEDGEROW_LAKE_ENDPOINT": f"https://127.0.0.1:{self._ports['s3']}",
            "HEDGEROW_LAKE_CA_FILE": str(self._tls.ca.resolve()),
            "SSL_CERT_FILE": str(self._tls.ca.resolve()),
            "HEDGEROW_LAKE_ACCESS_KEY": ACCESS_KEY,
            "HEDGEROW_LAKE_SECRET_KEY_FILE": str(self.secret_key_file),
        }

    def _files(self) -> fs.S3FileSystem:
        from pyarrow import fs

        return fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=self.secret_key_file.read_text(),
            endpoint_override=f"127.0.0.1:{self._ports['s3']}",
            scheme="https",
            region="us-east-1",
            tls_ca_file_path=str(self._tls.ca.resolve()),
            allow_bucket_creation=True,
            connect_timeout=1,
            request_timeout=2,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )

    def _security(self) -> str:
        certificate, key = self.folder / "inner.pem", self.folder / "inner.key"
        ensure_inner_certificate(certificate, key)
        lines = [
            "[access]",
            "ui = false",
            "[filer.expose_directory_metadata]",
            "enabled = false",
            "[grpc]",
            f"ca = {json.dumps(str(certificate))}",
        ]
        for part in _PARTS:
            files = f"cert = {json.dumps(str(certificate))}\nkey = {json.dumps(str(key))}"
            lines += [f"[grpc.{part}]", files]
        for use in ("signing", "signing.read", "filer_signing", "filer_signing.read"):
            token_key = ensure_password(self.folder / f"{use}.key")
            lines += [f"[jwt.{use}]", f"key = {json.dumps(token_key)}"]
        return "\n".join(lines) + "\n"


def _program() -> Path:
    return Path(sysconfig.get_path("scripts")) / "weed"
