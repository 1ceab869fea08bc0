"""``python -m libs.rpc.probe``: whether the service of this container serves, asked over mutual TLS as the service itself.

The gRPC probe of a kubelet has no client certificate; this one presents that of the service, from its own identity folder.
It reads the ``HEDGEROW_…`` variables of the service. Exit code 0: it serves (or, with ``--live``, answers at all); 1: not.
One line on standard error says why. It holds nothing and starts nothing, so that it may run every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

CHECK = "/grpc.health.v1.Health/Check"
# The chain of a service wants a deadline like any call; the platform's own limit lies above this one.
DEFAULT_SECONDS = 3.0
_MARK = b"-----BEGIN CERTIFICATE-----"
_STATUS = health_pb2.HealthCheckResponse.ServingStatus


class ProbeError(Exception):
    """The service cannot be asked; the message says why."""


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Ask once; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m libs.rpc.probe", description="Health of this container's service.")
    parser.add_argument("--live", action="store_true", help="any answer will do, NOT_SERVING included")
    parser.add_argument("--timeout", type=float, default=DEFAULT_SECONDS, metavar="SECONDS")
    options = parser.parse_args(arguments)
    try:
        status = ask(environment, options.timeout)
    except ProbeError as error:
        print(f"probe: {error}", file=sys.stderr)
        return 1
    if status == health_pb2.HealthCheckResponse.SERVING or options.live:
        return 0
    print(f"probe: {_STATUS.Name(status)}", file=sys.stderr)
    return 1


def ask(environment: Mapping[str, str], timeout: float) -> int:
    """Return the ``ServingStatus`` of the whole server.

    Args:
        environment: with ``HEDGEROW_SERVICE``, ``HEDGEROW_LISTEN``, ``HEDGEROW_DATA_DIR`` and, where it differs from
            ``hedgerow.local``, ``HEDGEROW_TRUST_DOMAIN``.
        timeout: seconds, connecting included.

    Raises:
        ProbeError: a variable or the identity is missing, or nobody answers in time.
    """
    try:
        service, listen = environment["HEDGEROW_SERVICE"], environment["HEDGEROW_LISTEN"]
        folder = Path(environment["HEDGEROW_DATA_DIR"]) / "identity"
    except KeyError as error:
        raise ProbeError(f"{error.args[0]} is not set") from None
    name = f"{service}.{environment.get('HEDGEROW_TRUST_DOMAIN', 'hedgerow.local')}"
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(local_target(listen), _credentials(folder), options) as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
                # It lives, and a restart would only make it busier.
                return int(health_pb2.HealthCheckResponse.UNKNOWN)
            raise ProbeError(f"{error.code().name} from {listen}") from None  # type: ignore[attr-defined]
    return int(answer.status)


def local_target(listen: str) -> str:
    """Return where this host reaches a listening address: an address for all interfaces becomes the loopback."""
    host, _, port = listen.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - it is replaced, not bound
    return f"{local.get(host, host)}:{port}"


def _credentials(folder: Path) -> grpc.ChannelCredentials:
    try:
        key, mark, chain = (folder / "identity.pem").read_bytes().partition(_MARK)
        roots = (folder / "roots.pem").read_bytes()
    except OSError:
        raise ProbeError("the service has no identity yet") from None
    return grpc.ssl_channel_credentials(roots, key, mark + chain)


if __name__ == "__main__":
    sys.exit(main())
