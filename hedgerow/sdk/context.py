"""Where a suite is and who is calling it: a folder with the addresses, the CA of the enrolment port and identities.

The folder holds `context.json`, `roots.pem` (the CA to trust on the enrolment port and nowhere else) and
`users/<name>/` with the identity of each person who logged in.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hedgerow import client, names
from hedgerow.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from hedgerow.identity import TRUST_DOMAIN, IdentityFolder
from hedgerow.secrets.v1 import secrets_pb2

ENVIRONMENT = "HEDGEROW_CONTEXT"
SERVICES = ("ingestion", "features", "training", "inference", "secrets", "governance")


@dataclass(frozen=True)
class Context:
    """A suite as one machine knows it.

    Attributes:
        folder: where the context lives.
        addresses: `host:port` by service; the training service also serves the model registry.
        enrolment: `host:port` of the enrolment port.
        trust_domain: SPIFFE trust domain of the suite; the certificate of the enrolment port is named within it.
    """

    folder: Path
    addresses: Mapping[str, str]
    enrolment: str
    trust_domain: str = TRUST_DOMAIN

    @property
    def roots_file(self) -> Path:
        """The CA of the enrolment port, in PEM."""
        return self.folder / "roots.pem"

    def identity(self, user: str) -> IdentityFolder:
        """Returns the folder of a person's identity, which need not exist yet."""
        return IdentityFolder(self.folder / "users" / names.check_id(user, "user"))

    def save(self, roots_pem: bytes) -> None:
        """Writes the context and the CA of its enrolment port."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {"addresses": dict(self.addresses), "enrolment": self.enrolment, "trust_domain": self.trust_domain}
        text = json.dumps(content, indent=2)
        for path, data in ((self.folder / "context.json", text.encode()), (self.roots_file, roots_pem)):
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(data)
            temporary.replace(path)

    @classmethod
    def load(cls, folder: Path | None = None) -> "Context":
        """Reads the context in a folder, in that of the environment, or in the user's configuration folder.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: it is not one.
        """
        folder = folder or default_folder()
        try:
            content = json.loads((folder / "context.json").read_text(encoding="utf-8"))
            addresses = {service: str(content["addresses"][service]) for service in SERVICES}
            return cls(folder, addresses, str(content["enrolment"]), str(content.get("trust_domain", TRUST_DOMAIN)))
        except FileNotFoundError:
            raise NotFoundError(
                f"no suite is known in {folder}; start one with `make up` and name its folder, var/local, "
                f"with {ENVIRONMENT} or --context"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgumentError(
                f"{folder / 'context.json'} is not a context: it needs an address for each of {', '.join(SERVICES)} "
                "and `enrolment`"
            ) from error


def default_folder() -> Path:
    """Returns the context folder of the environment, or else of the user's configuration."""
    named = os.environ.get(ENVIRONMENT)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(named) if named else Path(base) / "hedgerow"


async def login(context: Context, user: str, password: str, *, timeout: float = 15.0) -> IdentityFolder:
    """Exchanges a person's name and password for a short-lived certificate, kept in the context.

    Raises:
        UnauthenticatedError: the name or the password is wrong, or the context has no CA for the enrolment port.
    """
    folder = context.identity(user)
    try:
        roots_pem = context.roots_file.read_bytes()
    except FileNotFoundError:
        raise UnauthenticatedError(
            f"{context.roots_file} is missing; it holds the CA of the enrolment port, get it from who runs the suite"
        ) from None
    method = secrets_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].methods_by_name["Login"]
    folder.save(
        await client.enrol(
            context.enrolment,
            f"secrets.{context.trust_domain}",
            roots_pem,
            method,
            timeout=timeout,
            username=user,
            password=password,
        )
    )
    return folder
