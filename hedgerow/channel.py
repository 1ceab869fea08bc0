"""A gRPC channel over mutual TLS that follows the rotation of its certificate without a failed call.

gRPC Python takes a client certificate as fixed bytes. ``RotatingChannel`` watches the identity folder: when the identity
changes it builds a second channel, waits until that is ready, directs new calls to it, and lets the calls of the old one
finish (see ``docs/adr/0004-rotating-channel.md``).

An address may name several replicas, ``10.0.0.1:7444,10.0.0.2:7444``, or a name that resolves to several,
``dns:///features.hedgerow.svc:7444``: calls then go round those that are connected and say that they serve.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import time
import weakref
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from hedgerow.errors import InvalidArgumentError, UnauthenticatedError
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
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not a pause, whatever its name: how long a connection may take to be made, handshake included.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy variable of the environment must not divert a hop of the suite.
    ("grpc.enable_http_proxy", 0),
)


# The one service whose clients are not ours and try nothing again themselves; none of its calls changes anything.
_OPEN_INFERENCE = "inference.GRPCInferenceService"
# A replica counts when its connection stands and its health, watched by each channel, says that it serves.
_BALANCED = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{"service": _OPEN_INFERENCE}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def secure_channel(address: str, server_name: str, identity: Identity) -> grpc.aio.Channel:
    """Return a channel to an address that presents the identity and expects ``server_name`` of each peer.

    Raises:
        InvalidArgumentError: the address names several replicas in a way that cannot be.
    """
    credentials = grpc.ssl_channel_credentials(identity.roots_pem, identity.key_pem, identity.chain_pem)
    return _open(address, server_name, credentials)


def pinned_channel(address: str, server_name: str, roots_pem: bytes) -> grpc.aio.Channel:
    """Return a channel without a client certificate, for the enrolment port alone."""
    return _open(address, server_name, grpc.ssl_channel_credentials(roots_pem))


def _open(address: str, server_name: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", server_name), *balancing(address)]
    return grpc.aio.secure_channel(target_of(address), credentials, options=options)


def balancing(address: str) -> Sequence[tuple[str, str]]:
    """Return the channel options that an address with several replicas needs; none for a single one."""
    return [("grpc.service_config", _BALANCED)] if "," in address or address.startswith("dns:") else []


def target_of(address: str) -> str:
    """Return what gRPC calls an address: ``a:1,b:2`` becomes ``ipv4:a:1,b:2``, all else stays as it is.

    Raises:
        InvalidArgumentError: one of several is not ``ip:port``, or they mix IPv4 and IPv6.
    """
    if "," not in address:
        return address
    replicas = [replica.strip() for replica in address.split(",")]
    versions = {_ip_version(replica, address) for replica in replicas}
    if len(versions) > 1:
        raise InvalidArgumentError(f"the address {address!r} mixes IPv4 and IPv6; name replicas by one of them")
    return f"ipv{versions.pop()}:{','.join(replicas)}"


def _ip_version(replica: str, address: str) -> int:
    host, _, port = replica.rpartition(":")
    try:
        if not 0 < int(port) < 65_536:
            raise ValueError(port)
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
    except ValueError:
        raise InvalidArgumentError(
            f"the address {address!r} names replicas, and {replica!r} is not ip:port; for names use dns:///name:port"
        ) from None


class RotatingChannel:
    """One logical channel to one service.

    Create and use it inside a running event loop. ``method`` returns the multi-callable of the newest channel, so fetch
    it for each call; it is cached until the next rotation.
    """

    def __init__(self, address: str, server_name: str, folder: IdentityFolder) -> None:
        """Open the channel.

        Args:
            address: ``host:port``, several ``ip:port`` with commas between them, or ``dns:///name:port``.
            server_name: name that the certificate of each peer must have.
            folder: of the identity to present.

        Raises:
            InvalidArgumentError: the address is not one.
            UnauthenticatedError: the folder holds no usable identity.
        """
        self._address = address
        self._server_name = server_name
        self._folder = folder
        identity = folder.current()
        if identity is None:
            raise UnauthenticatedError(
                "there is no usable identity here; log in or enrol first", metadata={"folder": folder.folder.name}
            )
        self._identity = identity
        self._channel = secure_channel(address, server_name, identity)
        self._methods: dict[tuple[str, str], Any] = {}
        # gRPC tells nobody the calls of a channel, and `close` must end those of former ones.
        self._calls: weakref.WeakSet[Any] = weakref.WeakSet()
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
            begin = make(path, request_serializer=serializer, response_deserializer=deserializer)
            callable_ = self._methods[key] = self._noting(begin)
        return callable_

    def _noting(self, begin: Any) -> Any:
        """Return a multi-callable that also notes the calls it begins."""
        note = self._calls.add

        def begin_and_note(*arguments: Any, **options: Any) -> Any:
            call = begin(*arguments, **options)
            note(call)
            return call

        return begin_and_note

    def _check(self) -> None:
        self._next_check = time.monotonic() + CHECK_SECONDS
        identity = self._folder.current()
        if identity is None or identity is self._identity or (self._rotation and not self._rotation.done()):
            return
        self._rotation = asyncio.create_task(self._rotate(identity))

    async def _rotate(self, identity: Identity) -> None:
        channel = secure_channel(self._address, self._server_name, identity)
        try:
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError):
                # The peer is away: stay with the old connection and try again at the next check.
                return
            raise
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
        self._next_check = math.inf
        if self._rotation is not None:
            self._rotation.cancel()
            await asyncio.wait([self._rotation])
        # A former channel is closed by what drains it, as soon as its last call has ended. That task must not be cancelled:
        # gRPC would then neither end the calls nor close the channel, and a second close does nothing.
        for call in list(self._calls):
            call.cancel()
        await self._channel.close()
        if self._draining:
            await asyncio.wait(self._draining)
