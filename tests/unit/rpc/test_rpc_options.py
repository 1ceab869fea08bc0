"""gRPC ignores an option that it does not know: each of ours must be a word of the library."""

from pathlib import Path

import grpc._cython.cygrpc
import pytest

from hedgerow import channel
from libs.rpc import aio_transport

SERVER, CLIENT = dict(aio_transport.OPTIONS), dict(channel._OPTIONS)


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(grpc._cython.cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("option", sorted({*SERVER, *CLIENT}))
def test_the_library_knows_the_option(library: bytes, option: str) -> None:
    assert option.encode() in library


def test_a_server_takes_more_pings_than_clients_send() -> None:
    """Otherwise it ends quiet connections, and whatever waits on them, with ENHANCE_YOUR_CALM."""
    assert SERVER["grpc.http2.min_ping_interval_without_data_ms"] < int(CLIENT["grpc.keepalive_time_ms"])
