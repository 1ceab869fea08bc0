"""Where tables lie, by configuration: a local folder, S3 and what speaks it, Azure Blob Storage or Google Cloud Storage."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from hedgerow.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from libs.config import LakeConfig
from libs.lake.folder import TableFolder
from libs.lake.local_folder import LocalFolder
from libs.lake.object_folder import ObjectFolder

Opened = tuple[fs.FileSystem, str, dict[str, str]]
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 30
# Of the Delta library, whose own would have a call wait for minutes.
_PATIENCE = {
    "connect_timeout": f"{_CONNECT_SECONDS}s",
    "timeout": f"{_REQUEST_SECONDS}s",
    "max_retries": "2",
    "retry_timeout": f"{_REQUEST_SECONDS}s",
}


@dataclass(frozen=True)
class LakeStorage:
    """How an object store is reached; a local folder needs none of it.

    Without keys the platform's own identity is used, such as that of a workload in a cluster.

    Attributes:
        endpoint: ``https://host:port`` of a store that speaks S3; empty for the region's own.
        region: of S3.
        ca_file: PEM that vouches for the endpoint; empty for the system's. The Delta library takes it from the
            environment alone, so ``SSL_CERT_FILE`` must name the same file.
        access_key: of S3.
        secret_key_file: holds the secret key; read when a table is opened.
        account: of Azure Blob Storage.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    ca_file: Path | None = None
    access_key: str = ""
    secret_key_file: Path | None = None
    account: str = ""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith("https://"):
            raise _refused("lake_endpoint", "must begin with https://; nothing goes over the network in clear")
        if bool(self.access_key) != bool(self.secret_key_file):
            raise _refused("lake_secret_key_file", "and lake_access_key go together")
        try:
            self._secret()
        except (OSError, UnicodeError) as error:
            raise _refused("lake_secret_key_file", "cannot be read") from error
        if self.ca_file and os.environ.get("SSL_CERT_FILE") != str(self.ca_file):
            raise FailedPreconditionError("lake_ca_file is set, so SSL_CERT_FILE must name the same file")

    @classmethod
    def of(cls, config: LakeConfig) -> LakeStorage:
        """Return what a service is told.

        Raises:
            HedgerowError: it does not fit together; the field is named.
        """
        return cls(
            config.lake_endpoint,
            config.lake_region,
            config.lake_ca_file,
            config.lake_access_key,
            config.lake_secret_key_file,
            config.lake_account,
        )

    def folder(self, location: str) -> TableFolder:
        """Return the folder of a table.

        Raises:
            InvalidArgumentError: the location is of no kind that is known.
            UnavailableError: the secret key cannot be read any more.
        """
        location = location.rstrip("/")
        parts = urlsplit(location)
        if parts.scheme == "file":
            return LocalFolder(location)
        kinds: dict[str, Callable[[str], Opened]] = {"s3": self._s3, "az": self._azure, "gs": self._google}
        if parts.scheme not in kinds:
            raise _refused("lake_location", "must begin with file://, s3://, az:// or gs://")
        return ObjectFolder(location, *kinds[parts.scheme](f"{parts.netloc}{parts.path}"))

    def _s3(self, root: str) -> Opened:
        try:
            secret = self._secret()
        except (OSError, UnicodeError) as error:
            raise UnavailableError(
                "the key of the lake's storage cannot be read; try again", metadata={"dependency": "lake storage"}
            ) from error
        files = fs.S3FileSystem(
            access_key=self.access_key or None,
            secret_key=secret or None,
            region=self.region,
            scheme="https",
            endpoint_override=self.endpoint.removeprefix("https://") or None,
            tls_ca_file_path=str(self.ca_file) if self.ca_file else None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            background_writes=False,
        )
        options = {
            "aws_region": self.region,
            "aws_endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": secret,
            # A version is taken by the first who writes its entry.
            "aws_conditional_put": "etag",
            **_PATIENCE,
        }
        return files, root, {name: value for name, value in options.items() if value}

    def _secret(self) -> str:
        return self.secret_key_file.read_text().strip() if self.secret_key_file else ""

    def _azure(self, root: str) -> Opened:
        if not self.account:
            raise _refused("lake_account", "must name the storage account of an az:// location")
        return (
            fs.AzureFileSystem(account_name=self.account),
            root,
            {"azure_storage_account_name": self.account, **_PATIENCE},
        )

    def _google(self, root: str) -> Opened:
        return fs.GcsFileSystem(), root, dict(_PATIENCE)


LOCAL_STORAGE = LakeStorage()
"""Reaches local folders, and object stores by the platform's own identity."""


def _refused(field: str, demand: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {demand}", fields={field: demand})
