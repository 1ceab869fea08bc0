"""A gRPC channel over mutual TLS that follows the rotation of its certificate without a failed call.

gRPC Python takes a client certificate as fixed bytes. ``RotatingChannel`` watches the identity folder: when the identity
changes it builds a second channel, waits until that is ready, directs new calls to it, and lets the calls of the old one
finish (see ``docs/adr/0004-rotating-channel.md``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import Identity, IdentityFolder

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
CHECK_SECONDS = 1.0
READY_SECONDS = 10.0
DRAIN_SECONDS = 600.0

_OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy variable of the environment must not divert a hop of the suite.
    ("grpc.enable_http_proxy", 0),
)


def secure_channel(target: str, server_name: str, identity: Identity) -> grpc.aio.Channel:
    """Return a channel to ``host:port`` that presents the identity and expects ``server_name`` of the peer."""
    credentials = grpc.ssl_channel_credentials(identity.roots_pem, identity.key_pem, identity.chain_pem)
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
    return grpc.aio.secure_channel(target, credentials, options=options)


def pinned_channel(target: str, server_name: str, roots_pem: bytes) -> grpc.aio.Channel:
    """Return a channel without a client certificate, for the enrolment port alone."""
    credentials = grpc.ssl_channel_credentials(roots_pem)
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
    return grpc.aio.secure_channel(target, credentials, options=options)


class RotatingChannel:
    """One logical channel to one service.

    Create and use it inside a running event loop. ``method`` returns the multi-callable of the newest channel, so fetch
    it for each call; it is cached until the next rotation.
    """

    def __init__(self, target: str, server_name: str, folder: IdentityFolder) -> None:
        """Open the channel.

        Raises:
            UnauthenticatedError: the folder holds no usable identity.
        """
        self._target = target
        self._server_name = server_name
        self._folder = folder
        identity = folder.current()
        if identity is None:
            raise UnauthenticatedError(
                "there is no usable identity here; log in or enrol first", metadata={"folder": folder.folder.name}
            )
        self._identity = identity
        self._channel = secure_channel(target, server_name, identity)
        self._methods: dict[tuple[str, str], Any] = {}
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._rotation: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self.rotations = 0

    @property
    def identity(self) -> Identity:
        """The identity that new calls present."""
        return self._identity

    def method(self, kind: str, path: str, serializer: Any, deserializer: Any) -> Any:
        """Return the multi-callable of ``kind`` (``unary_unary``, ``unary_stream``, …) on the newest channel."""
        if time.monotonic() >= self._next_check:
            self._check()
        key = (kind, path)
        callable_ = self._methods.get(key)
        if callable_ is None:
            make = getattr(self._channel, kind)
            callable_ = self._methods[key] = make(
                path, request_serializer=serializer, response_deserializer=deserializer
            )
        return callable_

    def _check(self) -> None:
        self._next_check = time.monotonic() + CHECK_SECONDS
        identity = self._folder.current()
        if identity is None or identity is self._identity or (self._rotation and not self._rotation.done()):
            return
        self._rotation = asyncio.create_task(self._rotate(identity))

    async def _rotate(self, identity: Identity) -> None:
        channel = secure_channel(self._target, self._server_name, identity)
        try:
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
        except TimeoutError:
            # The peer is away: stay with the old connection and try again at the next check.
            await channel.close()
            return
        old, self._channel, self._identity = self._channel, channel, identity
        self._methods = {}
        self.rotations += 1
        task = asyncio.create_task(old.close(DRAIN_SECONDS))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def rotate_now(self) -> None:
        """Follow a change of the folder at once instead of at the next check."""
        self._check()
        if self._rotation is not None:
            await self._rotation

    async def close(self) -> None:
        """Close the channel and what is left of former ones; calls in progress are cancelled."""
        if self._rotation is not None:
            self._rotation.cancel()
        for task in list(self._draining):
            task.cancel()
        await self._channel.close()
