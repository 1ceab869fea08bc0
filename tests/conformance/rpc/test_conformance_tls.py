"""Who is let in: mutual TLS 1.3 with a certificate of the suite, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.identity import Identity
from tests.support.authority import Authority, folder
from tests.support.serving import Served

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


def context(roots: bytes, identity: Identity | None, tmp: Path, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    """Return a client's context."""
    made = ssl.create_default_context(cadata=roots.decode())
    made.set_alpn_protocols(list(alpn))
    if identity is not None:
        made.load_cert_chain(folder(tmp / "client", identity).folder / "identity.pem")
    return made


def speak(port: int, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes, ssl.SSLSocket]:
    """Shake hands, say hello in HTTP/2, and return what the server says first."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        # Detached from ``raw`` at once, so what fails from here on leaves the wrapped one to close.
        wrapped = client.wrap_socket(
            raw, do_handshake_on_connect=False, server_hostname="ingestion.hedgerow.local", session=session
        )
    except OSError:
        raw.close()
        raise
    try:
        wrapped.do_handshake()
        wrapped.sendall(PREFACE)
        return wrapped.recv(65536), wrapped
    except OSError:
        wrapped.close()
        raise


async def refused(port: int, client: ssl.SSLContext) -> None:
    """Expect that the handshake or the first words are refused; in TLS 1.3 a client may think it is through."""

    def attempt() -> bytes:
        said, wrapped = speak(port, client)
        wrapped.close()
        return said

    with contextlib.suppress(OSError):
        assert await asyncio.to_thread(attempt) == b""


async def test_a_caller_of_the_suite_is_let_in(served: Served, tmp_path: Path) -> None:
    client = context(served.authority.roots_pem, served.authority.user("ana"), tmp_path)
    said, wrapped = await asyncio.to_thread(speak, served.server.port, client)
    assert said[3] == 4  # SETTINGS
    assert (wrapped.version(), wrapped.selected_alpn_protocol()) == ("TLSv1.3", "h2")
    wrapped.close()


@pytest.mark.parametrize("case", ["no certificate", "foreign", "expired", "not yet valid", "server's own root"])
async def test_a_certificate_of_the_suite_is_required(served: Served, tmp_path: Path, case: str) -> None:
    authority = served.authority
    hour = dt.timedelta(hours=1)
    make: dict[str, Callable[[], Identity | None]] = {
        "no certificate": lambda: None,
        "foreign": lambda: Authority("foreign").user("ana"),
        "expired": lambda: authority.user("ana", life=-hour / 2, age=hour),
        "not yet valid": lambda: authority.user("ana", age=-hour / 2),
        "server's own root": lambda: Authority("test root").user("ana"),
    }
    await refused(served.server.port, context(authority.roots_pem, make[case](), tmp_path))
    assert not served.events


async def test_older_tls_is_refused(served: Served, tmp_path: Path, transport: str) -> None:
    """The lane refuses it in the handshake; ``grpc.aio`` cannot, so there the chain refuses each call."""
    client = context(served.authority.roots_pem, served.authority.user("ana"), tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    if transport == "lane":
        await refused(served.server.port, client)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_only_h2_is_spoken(served: Served, tmp_path: Path, alpn: tuple[str, ...]) -> None:
    await refused(served.server.port, context(served.authority.roots_pem, served.authority.user("ana"), tmp_path, alpn))


async def test_plain_text_is_refused(served: Served) -> None:
    def attempt() -> bytes:
        with socket.create_connection(("127.0.0.1", served.server.port), timeout=5) as raw:
            raw.sendall(PREFACE)
            return raw.recv(65536)

    try:
        said = await asyncio.to_thread(attempt)
    except OSError:
        return
    assert said[:1] in (b"", b"\x15")  # nothing, or a TLS alert


@pytest.mark.parametrize("transport", ["lane"], indirect=True)
async def test_a_session_is_resumed_until_the_identity_changes(served: Served, tmp_path: Path) -> None:
    """On the other transport, resumption across connections is up to gRPC."""
    client = context(served.authority.roots_pem, served.authority.user("ana"), tmp_path)
    _, first = await asyncio.to_thread(speak, served.server.port, client)
    session = first.session
    _, second = await asyncio.to_thread(speak, served.server.port, client, session)
    assert second.session_reused
    served.folder.save(served.authority.service("ingestion"))
    _, third = await asyncio.to_thread(speak, served.server.port, client, second.session)
    assert not third.session_reused
    for wrapped in (first, second, third):
        wrapped.close()
