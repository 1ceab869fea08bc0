"""A port for callers that have no certificate yet: server TLS alone, and a chain without identity and authorisation.

Only unary methods; the handler itself proves who calls, and audits what it grants. What is left of the chain is the same:
capacity, deadline, one rate limit for the whole port (an address is personal data and proves nothing), decoding, typed
errors, metrics, and the audit of refusals.
"""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio

from hedgerow.errors import UnauthenticatedError, UnavailableError
from hedgerow.identity import IdentityFolder
from libs.rpc.aio_transport import OPTIONS, AioCall, rotating_credentials, unary_handler, unknown_method
from libs.rpc.call import Caller, Peer, TransportCall
from libs.rpc.chain import TLS_VERSION, Chain
from libs.rpc.outcome import State
from libs.rpc.service import Method, Service
from libs.telemetry import get_logger

ANONYMOUS = Caller("", "anonymous", "")
MAX_MESSAGE_BYTES = 128 * 1024
log = get_logger()


class OpenChain(Chain):
    """The chain of an open port."""

    def _identify(self, transport: TransportCall, state: State) -> Caller:
        peer = transport.peer()
        if peer is None or peer.tls_version != TLS_VERSION:
            raise UnauthenticatedError("TLS 1.3 is required")
        return ANONYMOUS

    async def _authorise(self, method: Method, request: object, state: State) -> None:
        """Nothing to decide: the handler checks the credential in the request."""


class _OpenCall(AioCall):
    def peer(self) -> Peer | None:
        """The TLS version alone."""
        version = self._context.auth_context().get("ssl_tls_version")
        return Peer(b"", version[0].decode()) if version else None


class OpenPort:
    """One port with one service."""

    def __init__(self, chain: OpenChain, service: Service, folder: IdentityFolder, listen: str) -> None:
        """Prepare the port.

        Args:
            chain: its own links.
            service: unary methods only.
            folder: the server's identity, followed at each handshake.
            listen: ``host:port``; port 0 picks a free one.
        """
        self._chain = chain
        self._listen = listen
        self._credentials = rotating_credentials(folder, client_certificates=False)
        options = [(key, MAX_MESSAGE_BYTES if "receive_message" in key else value) for key, value in OPTIONS]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Handlers(chain, service),))
        self.port = 0

    async def start(self) -> None:
        """Open the port.

        Raises:
            UnavailableError: it cannot be bound.
        """
        try:
            self.port = self._server.add_secure_port(self._listen, self._credentials)
        except RuntimeError as error:
            raise UnavailableError(
                f"{self._listen} cannot be bound; is the port taken?", metadata={"listen": self._listen}
            ) from error
        await self._server.start()
        log.info("listening", listen=self._listen, port=self.port)

    async def stop(self, grace: float = 5.0) -> None:
        """Let calls in progress end, for at most ``grace`` seconds, and close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._chain.wait_idle()
        await self._server.stop(0.1)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, chain: OpenChain, service: Service) -> None:
        self._handlers = {
            method.path: grpc.unary_unary_rpc_method_handler(unary_handler(chain, method, _OpenCall))
            for method in service.methods
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        handler = self._handlers.get(details.method)
        return handler if handler is not None else unknown_method(details.method)
