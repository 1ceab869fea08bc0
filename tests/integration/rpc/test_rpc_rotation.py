"""Certificates rotate on both ends of live connections, and a call is never lost to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.identity import Identity, IdentityFolder, IdentityRenewer
from tests.support.authority import Authority, folder
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving


def served_serial(served: Served, client: IdentityFolder) -> int:
    """Return the serial of the certificate that a new handshake shows."""
    from cryptography import x509

    context = ssl.create_default_context(cadata=served.authority.roots_pem.decode())
    context.load_cert_chain(client.folder / "identity.pem")
    context.set_alpn_protocols(["h2"])
    import socket

    with (
        socket.create_connection(("127.0.0.1", served.server.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="ingestion.hedgerow.local") as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def keep_calling(client: ServiceClient, stop: asyncio.Event) -> int:
    """Call until told to stop; any failure surfaces. Return how many succeeded."""
    count = 0
    while not stop.is_set():
        assert (await client.call("Sleep", BytesValue(value=b"1"), timeout=5)).value == b"1"
        count += 1
    return count


async def test_server_rotation_keeps_the_last_good_identity(tmp_path: Path) -> None:
    """TLS-01: a swap reaches new handshakes; a truncated file and a foreign key leave the old one in use."""
    authority = Authority()
    async with serving(tmp_path, [echo_service(Echo())], authority=authority) as served:
        client_folder = folder(tmp_path / "ana", authority.user("ana"))
        channel = RotatingChannel(served.target, "ingestion.hedgerow.local", client_folder)
        served.channels.append(channel)
        stop = asyncio.Event()
        calls = asyncio.create_task(keep_calling(ServiceClient(channel, DESCRIPTOR), stop))
        renewed = authority.service("ingestion")
        served.folder.save(renewed)
        assert await asyncio.to_thread(served_serial, served, client_folder) == renewed.certificate.serial_number
        path = served.folder.folder / "identity.pem"
        stranger = authority.service("ingestion")
        path.write_bytes(renewed.key_pem + stranger.chain_pem[: len(stranger.chain_pem) // 2])
        assert await asyncio.to_thread(served_serial, served, client_folder) == renewed.certificate.serial_number
        path.write_bytes(renewed.key_pem + stranger.chain_pem)
        assert await asyncio.to_thread(served_serial, served, client_folder) == renewed.certificate.serial_number
        assert served.folder.refused == 2
        served.folder.save(stranger)
        assert await asyncio.to_thread(served_serial, served, client_folder) == stranger.certificate.serial_number
        stop.set()
        assert await calls > 0


async def test_client_certificates_of_seconds_fail_no_call(tmp_path: Path) -> None:
    """TLS-02: many lives of a certificate pass under unary calls and one long stream."""
    authority = Authority()
    life = dt.timedelta(seconds=5)

    def fresh() -> Identity:
        return authority.user("ana", life=life, age=dt.timedelta(0))

    async def renew(identity: Identity) -> Identity:
        return fresh()

    async with serving(tmp_path, [echo_service(Echo())], authority=authority) as served:
        client_folder = folder(tmp_path / "ana", fresh())
        channel = RotatingChannel(served.target, "ingestion.hedgerow.local", client_folder)
        served.channels.append(channel)
        client = ServiceClient(channel, DESCRIPTOR)
        renewer = asyncio.create_task(IdentityRenewer(client_folder, renew).run())
        stop = asyncio.Event()
        calls = asyncio.create_task(keep_calling(client, stop))
        answers = [m.value async for m in client.stream("Down", BytesValue(value=b"1200"), timeout=30)]
        stop.set()
        assert await calls > 0
        renewer.cancel()
        assert answers == [b"1200"] * 10
        assert channel.rotations >= 3


async def test_roots_rotate_one_side_at_a_time(tmp_path: Path) -> None:
    """TLS-06: both roots are trusted, then each side moves to the second, then the first goes; no call fails."""
    first, second = Authority("first"), Authority("second")
    both = first.roots_pem + second.roots_pem
    async with serving(tmp_path, [echo_service(Echo())], authority=first) as served:
        server = served.folder.current()
        assert server is not None
        ana = first.user("ana")
        client_folder = folder(tmp_path / "ana", ana)
        channel = RotatingChannel(served.target, "ingestion.hedgerow.local", client_folder)
        served.channels.append(channel)
        client = ServiceClient(channel, DESCRIPTOR)
        stop = asyncio.Event()
        calls = asyncio.create_task(keep_calling(client, stop))
        server_name = second.service("ingestion", roots_pem=both)
        for target, identity in (
            (client_folder, Identity(ana.key_pem, ana.chain_pem, both)),
            (served.folder, Identity(server.key_pem, server.chain_pem, both)),
            (served.folder, server_name),
            (client_folder, second.user("ana", roots_pem=both)),
            (served.folder, second.service("ingestion")),
            (client_folder, second.user("ana")),
        ):
            target.save(identity)
            await channel.rotate_now()
            await asyncio.sleep(0.2)
        stop.set()
        assert await calls > 0
        assert channel.rotations == 3
