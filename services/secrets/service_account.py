"""Proof of a workload by the service-account token that Kubernetes projects into its pod.

The secret server judges the token, by an auth method of type ``kubernetes`` (it asks the cluster, which also refuses the
token of a pod that is gone) or ``jwt`` (it verifies signature, issuer, audience and time by the cluster's published keys).
The role decides which issuer, audience and namespace hold; see ``docs/guide/kubernetes.md``. Here the answer is bound once
more to the namespace, so that a role that is too wide does not let another namespace's account in, and the account's name
is the service's name.

A service-account token is not single-use: until it expires (ten minutes) or its pod goes, whoever reads it from the pod can
enrol as that service. That is why its audience is the suite's own, its life the shortest that Kubernetes gives, and the
enrolment port closed to all but the suite's pods.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.secrets.attestation import refused
from services.secrets.vault import Vault

MAX_TOKEN_LENGTH = 8192
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# What a ``kubernetes`` method says of an account, and what the claim mappings of a ``jwt`` role must be named.
_NAME = "service_account_name"
_NAMESPACE = "service_account_namespace"


@dataclass(frozen=True)
class AccountSettings:
    """Which accounts are believed.

    Attributes:
        mount: of the auth method.
        role: of that method.
        namespace: whose accounts stand for services of the same name.
    """

    mount: str
    role: str
    namespace: str


class ServiceAccounts:
    """A ``WorkloadAttestor`` for the pods of one namespace."""

    def __init__(self, vault: Vault, settings: AccountSettings) -> None:
        self._vault = vault
        self._settings = settings

    def service_of(self, token: str) -> str:
        """Return the service whose account a token is of.

        Raises:
            UnauthenticatedError: the token is malformed, refused, or of an account elsewhere.
        """
        if len(token) > MAX_TOKEN_LENGTH or not _JWT.fullmatch(token):
            raise refused("service-account token")
        account = self._vault.check_workload(self._settings.mount, self._settings.role, token)
        if account is None or account.get(_NAMESPACE) != self._settings.namespace or not account.get(_NAME):
            raise refused("service-account token")
        return account[_NAME]
