"""The suite for programs without an event loop: scripts, notebooks, threads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from hedgerow.identity import IdentityFolder
from hedgerow.sdk.connection import Hedgerow
from hedgerow.sdk.context import Context
from hedgerow.sdk.context import login as log_in
from hedgerow.sdk.portal import Portal
from hedgerow.sdk.sync_rpcs import SyncSuiteRpcs


class SyncClient:
    """A client of one service whose methods wait: they return or yield what the asynchronous ones do."""

    def __init__(self, portal: Portal, client: object) -> None:
        self._portal = portal
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            if inspect.iscoroutine(result):
                return self._portal.run(result)
            return self._portal.iterate(result)

        call.__name__, call.__doc__ = name, method.__doc__
        return call

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._client) if not name.startswith("_")]


class SyncHedgerow:
    """The suite as one caller sees it, for any number of threads; see `Hedgerow` for the clients and their methods.

    Calls run on a background thread. Ctrl-C cancels the call that waits. After a fork, open a connection in the child.
    Callbacks such as `progress` run on the background thread and must not make calls themselves.
    """

    def __init__(self, portal: Portal, connection: Hedgerow) -> None:
        self._portal = portal
        self._connection = connection
        self.ingestion = SyncClient(portal, connection.ingestion)
        self.features = SyncClient(portal, connection.features)
        self.training = SyncClient(portal, connection.training)
        self.models = SyncClient(portal, connection.models)
        self.inference = SyncClient(portal, connection.inference)
        self.secrets = SyncClient(portal, connection.secrets)
        self.governance = SyncClient(portal, connection.governance)
        self.rpcs = SyncSuiteRpcs(portal, connection.rpcs)

    @property
    def purpose(self) -> str:
        """The purpose that every call states."""
        return self._connection.purpose

    @classmethod
    def connect(cls, identity: IdentityFolder, addresses: Mapping[str, str], *, purpose: str = "") -> Self:
        """Connects with an identity to the services at `addresses` (`host:port` by service).

        Raises:
            UnauthenticatedError: the folder holds no usable identity.
        """
        portal = Portal()

        async def connect() -> Hedgerow:
            return Hedgerow.connect(identity, addresses, purpose=purpose)

        try:
            return cls(portal, portal.run(connect()))
        except BaseException:
            portal.close()
            raise

    def for_purpose(self, purpose: str) -> SyncHedgerow:
        """Returns the same connection, with every call stating this purpose; close only one of the two."""
        return SyncHedgerow(self._portal, self._connection.for_purpose(purpose))

    def close(self) -> None:
        """Closes all channels and the background thread; a second time it does nothing."""
        if self._portal.usable:
            try:
                self._portal.run(self._connection.close())
            finally:
                self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def login(context: Context, user: str, password: str, *, timeout: float = 15.0) -> IdentityFolder:
    """Exchanges a person's name and password for a short-lived certificate, kept in the context.

    Raises:
        UnauthenticatedError: the name or the password is wrong, or the context has no CA for the enrolment port.
    """
    portal = Portal()
    try:
        return portal.run(log_in(context, user, password, timeout=timeout))
    finally:
        portal.close()
