"""Messages, timeouts, metadata and statuses as bytes."""

from __future__ import annotations

import base64
import gzip
import urllib.parse

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import AbortedError, InvalidArgumentError, ResourceExhaustedError, UnimplementedError
from libs.rpc.lane.framing import (
    Compressed,
    Messages,
    decompress,
    prefix,
    status_trailers,
    text_metadata,
    timeout_seconds,
)

LIMIT = 1000


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    body = b"".join(prefix(message) + message for message in messages)
    reader, seen, at, turn = Messages(LIMIT, b"identity"), [], 0, 0
    while at < len(body):
        size = cuts[turn % len(cuts)]
        seen += reader.feed(body[at : at + size])
        at, turn = at + size, turn + 1
    reader.finish()
    assert seen == messages
    assert reader.partial == 0


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
def test_a_body_that_ends_within_a_message(cut: int) -> None:
    reader = Messages(LIMIT, b"identity")
    assert reader.feed((prefix(b"abc") + b"abc")[:cut]) == []
    with pytest.raises(InvalidArgumentError):
        reader.finish()


def test_a_message_beyond_the_limit_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ResourceExhaustedError) as caught:
        Messages(LIMIT, b"identity").feed(b"\0" + (LIMIT + 1).to_bytes(4, "big"))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert Messages(LIMIT, b"identity").feed(prefix(bytes(LIMIT)) + bytes(LIMIT)) == [bytes(LIMIT)]


def test_compression_is_said_twice_and_must_agree() -> None:
    packed = gzip.compress(b"abc" * 100)
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    (message,) = Messages(LIMIT, b"gzip").feed(body)
    assert isinstance(message, Compressed)
    assert decompress(message, LIMIT) == b"abc" * 100
    with pytest.raises(InvalidArgumentError):
        Messages(LIMIT, b"identity").feed(body)
    with pytest.raises(UnimplementedError):
        Messages(LIMIT, b"deflate")


@pytest.mark.parametrize("raw", [b"", b"abc", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"x"])
def test_what_is_not_one_whole_gzip_stream(raw: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decompress(Compressed(raw), LIMIT)


def test_a_bomb_stops_at_the_limit() -> None:
    with pytest.raises(ResourceExhaustedError):
        decompress(Compressed(gzip.compress(bytes(10_000_000))), LIMIT)
    assert decompress(Compressed(gzip.compress(bytes(LIMIT))), LIMIT) == bytes(LIMIT)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99_999_999)],
)
def test_timeouts(text: bytes, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b"1.5S", b"100000000S", b"1S ", "١S".encode()]
)
def test_what_is_no_timeout(text: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        timeout_seconds(text)


def test_metadata_is_what_callers_set() -> None:
    headers = [
        (b":path", b"/x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"),
        (b"grpc-encoding", b"gzip"), (b"x-raw-bin", b"AP8"), (b"x-a", b"1"), (b"x-a", b"2"), (b"user-agent", b"me"),
    ]  # fmt: skip
    assert text_metadata(headers) == {"x-a": "2", "user-agent": "me"}


@given(st.text(max_size=200))
def test_a_message_survives_percent_encoding(text: str) -> None:
    code, message, details = (value for _, value in status_trailers(AbortedError(text)))
    assert code == b"10"
    assert all(0x20 <= byte <= 0x7E for byte in message)
    assert urllib.parse.unquote(message.decode("ascii")) == text
    status = status_pb2.Status.FromString(base64.b64decode(details + b"=" * (-len(details) % 4)))
    assert (status.code, status.message) == (10, text)
