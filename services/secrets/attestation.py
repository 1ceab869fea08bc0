"""Proof of identity of who has no certificate yet: a workload by a token, a person by a password.

Where a platform starts the services, a workload shows the token that the platform gave it (``service_account.py``);
elsewhere a single-use enrolment token. That stands for one reading of ``kv/enrolment/<service>``, wrapped by the secret
server. The service it is for is taken from the path that made it, which the server vouches for: whoever may not read that
path cannot make a token, even with another right to wrap. The server itself guarantees that a token works once, also when
two use it at the same moment.
"""

from __future__ import annotations

import re
from typing import Protocol

from hedgerow.errors import InvalidArgumentError, UnauthenticatedError
from services.secrets.vault import Vault, VaultPathError, VaultRequestError

RECORD_PREFIX = "enrolment/"
MAX_SECRET_LENGTH = 1024
_PERSON = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._-]{8,1024}")


class WorkloadAttestor(Protocol):
    """Proves which service a workload is. It blocks and raises the errors of ``Vault``."""

    def service_of(self, token: str) -> str:
        """Return the service that a token is for.

        A malformed, unknown, expired or spent token MUST raise UnauthenticatedError (CREDENTIAL_REFUSED), and no error may
        quote it.
        """


class EnrolmentTokens:
    """Single-use tokens, made with the supervisor's credential."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def service_of(self, token: str) -> str:
        """Spend an enrolment token and return the service it is for.

        Raises:
            UnauthenticatedError: the token is malformed, unknown, expired or spent.
        """
        if not _TOKEN.fullmatch(token):
            raise refused("enrolment token")
        try:
            origin = self._vault.wrapping_origin(token)
            if not origin.startswith(f"kv/data/{RECORD_PREFIX}"):
                raise refused("enrolment token")
            self._vault.unwrap(token)
        except (VaultRequestError, VaultPathError) as error:
            raise refused("enrolment token") from error
        return origin.removeprefix(f"kv/data/{RECORD_PREFIX}")


class Attestor:
    """Checks the credentials. Its methods block and raise the errors of ``Vault``."""

    def __init__(self, vault: Vault, workloads: WorkloadAttestor | None = None) -> None:
        """Name the parts.

        Args:
            vault: the secret server.
            workloads: how workloads prove themselves; by single-use tokens unless given.
        """
        self._vault = vault
        self._workloads = workloads or EnrolmentTokens(vault)

    def service_of(self, token: str) -> str:
        """Return the service that a workload's token is for.

        Raises:
            UnauthenticatedError: the token is refused.
        """
        return self._workloads.service_of(token)

    def check_person(self, username: str, password: str) -> None:
        """Check a person's password.

        Raises:
            InvalidArgumentError: the name is malformed.
            UnauthenticatedError: name and password do not belong together; which of them is wrong is not told.
        """
        if not _PERSON.fullmatch(username):
            what = "expected 1 to 64 characters of [a-z0-9-], starting with a letter or digit"
            raise InvalidArgumentError("username is malformed", fields={"username": what})
        if not 0 < len(password) <= MAX_SECRET_LENGTH or not self._vault.check_password(username, password):
            raise refused("name or the password")

    def person_exists(self, username: str) -> bool:
        """Whether a person may still have a certificate."""
        try:
            self._vault.read(f"auth/userpass/users/{username}")
        except VaultPathError:
            return False
        return True


def refused(what: str) -> UnauthenticatedError:
    """Return the error for a credential, named but not quoted, that does not hold."""
    return UnauthenticatedError(f"the {what} is refused", reason="CREDENTIAL_REFUSED")
