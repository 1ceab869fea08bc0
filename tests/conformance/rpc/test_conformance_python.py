"""The interoperability cases with the Python clients, ``grpc.aio`` and sync, and what only raw clients can do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from hedgerow.errors import from_rpc_error
from tests.conformance.rpc.interop import (
    CODES,
    LARGE_REQUEST,
    LARGE_RESPONSE,
    SPECIAL,
    InteropEcho,
    path,
    value,
    wire,
)
from tests.support.serving import Served

NAME = [("grpc.ssl_target_name_override", "ingestion.hedgerow.local")]
SIZES = [31_415, 9, 2_653, 58_979]


def credentials(served: Served) -> grpc.ChannelCredentials:
    identity = served.authority.user("ana")
    return grpc.ssl_channel_credentials(identity.roots_pem, identity.key_pem, identity.chain_pem)


@asynccontextmanager
async def aio(served: Served, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(served.target, credentials(served), options=NAME, **options) as channel:
        yield channel


async def in_thread(served: Served, use: Callable[[grpc.Channel], Any]) -> Any:
    """Use a sync channel away from the loop, which serves."""

    def run() -> Any:
        with grpc.secure_channel(served.target, credentials(served), options=NAME) as channel:
            return use(channel)

    return await asyncio.to_thread(run)


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def large() -> bytes:
    return wire(f"size:{LARGE_RESPONSE} ".encode().ljust(LARGE_REQUEST, b"x"))


class TestAio:
    """With ``grpc.aio``."""

    async def test_empty_and_large_unary(self, served: Served) -> None:
        async with aio(served) as channel:
            echo = channel.unary_unary(path("Echo"))
            assert await echo(b"", timeout=5) == b""
            assert value(await echo(large(), timeout=5)) == bytes(LARGE_RESPONSE)

    async def test_client_and_server_streaming(self, served: Served) -> None:
        async with aio(served) as channel:
            up = channel.stream_unary(path("Up"))
            parts = [b"a" * size for size in (27_182, 8, 1_828, 45_904)]
            assert value(await up([wire(part) for part in parts], timeout=5)) == b"".join(parts)
            down = channel.unary_stream(path("Down"))
            assert [value(raw) async for raw in down(wire(b"0"), timeout=5)] == [b"0"] * 10

    async def test_ping_pong(self, served: Served) -> None:
        async with aio(served) as channel:
            call = channel.stream_stream(path("Both"))(timeout=5)
            for size in SIZES:
                await call.write(wire(b"%d" % size))
                assert len(value(await call.read())) == size
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    async def test_empty_streams(self, served: Served) -> None:
        """The suite's own rule: the first message names the resource, so a stream without one is refused."""
        async with aio(served) as channel:
            for call in (
                channel.stream_stream(path("Both"))([], timeout=5).read(),
                channel.stream_unary(path("Up"))([], timeout=5),
            ):
                error = await failed(call)
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert from_rpc_error(error).reason == "MESSAGE_MALFORMED"

    async def test_timeout_on_sleeping_server(self, served: Served, echo: InteropEcho) -> None:
        async with aio(served) as channel:
            error = await failed(channel.unary_unary(path("Sleep"))(wire(b"10000"), timeout=0.2))
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(5):
                await echo.ended.wait()

    async def test_cancel_after_begin(self, served: Served, echo: InteropEcho) -> None:
        async with aio(served) as channel:
            call = channel.unary_unary(path("Sleep"))(wire(b"10000"), timeout=20)
            while not echo.calls:
                await asyncio.sleep(0.01)
            call.cancel()
            assert await call.code() == grpc.StatusCode.CANCELLED
            async with asyncio.timeout(5):
                await echo.ended.wait()
            await channel.unary_unary(path("Echo"))(b"", timeout=5)
        await served.chain.wait_idle()

    async def test_cancel_after_first_response(self, served: Served, echo: InteropEcho) -> None:
        async with aio(served) as channel:
            call = channel.stream_stream(path("Both"))(timeout=20)
            await call.write(wire(b"31415"))
            assert len(value(await call.read())) == 31_415
            call.cancel()
            assert await call.code() == grpc.StatusCode.CANCELLED
            async with asyncio.timeout(5):
                await echo.ended.wait()
        await served.chain.wait_idle()

    @pytest.mark.parametrize("code", CODES)
    async def test_status_code_and_message(self, served: Served, code: str) -> None:
        async with aio(served) as channel:
            error = await failed(
                channel.unary_unary(path("Fail"))(wire(f"{code} test status message".encode()), timeout=5)
            )
            assert (error.code().name, error.details()) == (code, "test status message")
            assert type(from_rpc_error(error)) is CODES[code]

    async def test_special_status_message(self, served: Served) -> None:
        async with aio(served) as channel:
            error = await failed(channel.unary_unary(path("Fail"))(wire(f"ABORTED {SPECIAL}".encode()), timeout=5))
            assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, SPECIAL)
            percent = await failed(channel.unary_unary(path("Fail"))(wire(b"ABORTED 100%25 %"), timeout=5))
            assert percent.details() == "100%25 %"

    @pytest.mark.parametrize("name", ["/hedgerow.testing.v1.EchoService/Nope", "/no.such.Service/Echo", "/x"])
    async def test_unimplemented_method_and_service(self, served: Served, name: str) -> None:
        async with aio(served) as channel:
            for kind in (channel.unary_unary, channel.unary_stream):
                call = kind(name)(b"", timeout=5)
                error = await failed(call if kind == channel.unary_unary else call.read())
                assert error.code() == grpc.StatusCode.UNIMPLEMENTED
                assert error.details() == f"{name} is not a method of this server"

    async def test_custom_metadata(self, served: Served, echo: InteropEcho) -> None:
        raw = b"\x00\xff\xab" * 99
        entries = (
            ("x-twice", "one"), ("x-twice", "two"), ("x-text", "a b,c;=~!"), ("x-raw-bin", raw), ("x-empty-bin", b""),
            ("x-twice-bin", b"one"), ("x-twice-bin", b"two"),
        )  # fmt: skip
        async with aio(served) as channel:
            await channel.unary_unary(path("Echo"))(b"", timeout=5, metadata=entries)
        seen = echo.metadata[-1]
        assert (seen["x-twice"], seen["x-text"]) == ("two", "a b,c;=~!")
        assert "grpc-python-asyncio" in seen["user-agent"]
        assert set(seen) == {"x-twice", "x-text", "user-agent"}
        assert echo.binary[-1] == {"x-raw-bin": raw, "x-empty-bin": b"", "x-twice-bin": b"two"}

    async def test_compressed_messages(self, served: Served) -> None:
        async with aio(served) as channel:
            gzip = grpc.Compression.Gzip
            body = wire(b"size:9 ".ljust(LARGE_REQUEST, b"x"))
            assert value(await channel.unary_unary(path("Echo"))(body, timeout=5, compression=gzip)) == bytes(9)
            up = channel.stream_unary(path("Up"))
            parts = [b"a" * 40_000, b"", b"b" * 5]
            assert value(await up([wire(p) for p in parts], timeout=5, compression=gzip)) == b"".join(parts)

    async def test_a_gzip_bomb_is_refused(self, served: Served) -> None:
        async with aio(served) as channel:
            body = wire(bytes(50_000_000))
            error = await failed(channel.unary_unary(path("Echo"))(body, timeout=20, compression=grpc.Compression.Gzip))
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await channel.unary_unary(path("Echo"))(b"", timeout=5)

    async def test_flow_control_both_ways(self, served: Served) -> None:
        """More than any window, with a reader that starts late."""
        async with aio(served) as channel:
            call = channel.stream_stream(path("Both"))(timeout=30)

            async def write() -> None:
                for _ in range(40):
                    await call.write(wire(b"500000"))
                await call.done_writing()

            writing = asyncio.create_task(write())
            await asyncio.sleep(0.3)
            sizes = []
            while (raw := await call.read()) is not grpc.aio.EOF:
                sizes.append(len(value(raw)))
            await writing
            assert sizes == [500_000] * 40

    async def test_many_calls_on_one_connection(self, served: Served) -> None:
        async with aio(served) as channel:
            echo = channel.unary_unary(path("Echo"))
            bodies = [wire(b"%d" % number * (number % 700)) for number in range(600)]
            assert await asyncio.gather(*(echo(body, timeout=20) for body in bodies)) == bodies

    async def test_reflection_lists_the_services(self, served: Served) -> None:
        async with aio(served) as channel:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
                [request.SerializeToString()], timeout=5
            )
            answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            names = {service.name for service in answer.list_services_response.service}
            assert {"hedgerow.testing.v1.EchoService", "grpc.health.v1.Health"} <= names


class TestSync:
    """With the sync client."""

    async def test_unary(self, served: Served) -> None:
        def use(channel: grpc.Channel) -> tuple[bytes, bytes]:
            echo = channel.unary_unary(path("Echo"))
            return echo(b"", timeout=5), echo(large(), timeout=5)

        empty, big = await in_thread(served, use)
        assert (empty, value(big)) == (b"", bytes(LARGE_RESPONSE))

    async def test_streams(self, served: Served) -> None:
        def ping_pong(channel: grpc.Channel) -> list[int]:
            return [len(value(raw)) for raw in channel.stream_stream(path("Both"))(requests(), timeout=5)]

        def requests() -> Iterator[bytes]:
            for size in SIZES:
                yield wire(b"%d" % size)

        assert await in_thread(served, ping_pong) == SIZES
        down = await in_thread(served, lambda c: list(c.unary_stream(path("Down"))(wire(b"1"), timeout=5)))
        assert down == [wire(b"1")] * 10
        up = await in_thread(served, lambda c: c.stream_unary(path("Up"))(iter([wire(b"a"), wire(b"b")]), timeout=5))
        assert value(up) == b"ab"

    async def test_status_and_deadline(self, served: Served) -> None:
        def use(channel: grpc.Channel) -> list[tuple[str, str]]:
            seen = []
            for method, body, timeout in (
                ("Fail", wire(f"DATA_LOSS {SPECIAL}".encode()), 5),
                ("Sleep", wire(b"9000"), 0.2),
                ("Nope", b"", 5),
            ):
                try:
                    channel.unary_unary(path(method))(body, timeout=timeout)
                except grpc.RpcError as error:
                    seen.append((error.code().name, error.details() if method == "Fail" else ""))
            return seen

        assert await in_thread(served, use) == [
            ("DATA_LOSS", SPECIAL),
            ("DEADLINE_EXCEEDED", ""),
            ("UNIMPLEMENTED", ""),
        ]

    async def test_large_and_empty_streams(self, served: Served) -> None:
        def use(channel: grpc.Channel) -> tuple[int, list[str]]:
            parts = [wire(b"a" * size) for size in (27_182, 8, 1_828, 45_904)]
            total = len(value(channel.stream_unary(path("Up"))(iter(parts), timeout=5)))
            codes = []
            for call in (
                lambda: list(channel.stream_stream(path("Both"))(iter(()), timeout=5)),
                lambda: channel.stream_unary(path("Up"))(iter(()), timeout=5),
                lambda: list(channel.unary_stream("/no.such.Service/Echo")(b"", timeout=5)),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                codes.append(caught.value.code().name)
            return total, codes

        assert await in_thread(served, use) == (74_922, ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "UNIMPLEMENTED"])

    async def test_metadata_and_compressed_messages(self, served: Served, echo: InteropEcho) -> None:
        def use(channel: grpc.Channel) -> tuple[bytes, bytes]:
            metadata = (("x-text", "a b,c;=~!"), ("x-raw-bin", b"\x00\xff\xab"))
            gzip = grpc.Compression.Gzip
            body = wire(b"size:9 ".ljust(LARGE_REQUEST, b"x"))
            one = channel.unary_unary(path("Echo"))(body, timeout=5, metadata=metadata, compression=gzip)
            parts = iter([wire(b"a" * 40_000), wire(b"b")])
            return value(one), value(channel.stream_unary(path("Up"))(parts, timeout=5, compression=gzip))

        assert await in_thread(served, use) == (bytes(9), b"a" * 40_000 + b"b")
        assert (echo.metadata[-1]["x-text"], echo.binary[-1]) == ("a b,c;=~!", {"x-raw-bin": b"\x00\xff\xab"})

    async def test_cancel_after_begin_and_after_first_response(self, served: Served, echo: InteropEcho) -> None:
        begun = threading.Event()

        def use(channel: grpc.Channel) -> list[str]:
            begin = channel.unary_unary(path("Sleep")).future(wire(b"10000"), timeout=20)
            begun.wait(10)
            begin.cancel()
            bidi = channel.stream_stream(path("Both"))(never_ending(), timeout=20)
            assert len(value(next(bidi))) == SIZES[0]
            bidi.cancel()
            over.set()
            return [begin.code().name, bidi.code().name]

        over = threading.Event()

        def never_ending() -> Iterator[bytes]:
            yield wire(b"%d" % SIZES[0])
            over.wait(20)

        async def watch() -> None:
            while not echo.calls:
                await asyncio.sleep(0.01)
            begun.set()

        codes, _ = await asyncio.gather(in_thread(served, use), watch())
        assert codes == ["CANCELLED", "CANCELLED"]
        async with asyncio.timeout(10):
            await served.chain.wait_idle()
        assert echo.cancelled == 1

    async def test_cancel(self, served: Served, echo: InteropEcho) -> None:
        def use(channel: grpc.Channel) -> str:
            call = channel.unary_stream(path("Down"))(wire(b"500"), timeout=20)
            next(call)
            call.cancel()
            return str(call.code().name)

        assert await in_thread(served, use) == "CANCELLED"
        async with asyncio.timeout(5):
            await served.chain.wait_idle()
