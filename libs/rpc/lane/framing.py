"""The gRPC that is plain bytes: messages in a body, timeouts, metadata, and a status as trailers."""

from __future__ import annotations

import base64
import functools
import re
import struct
import zlib
from collections.abc import Iterable, Mapping

from hedgerow.errors import (
    STATUS_DETAILS_KEY,
    HedgerowError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnimplementedError,
    to_status,
)
from libs.rpc.lane.session import Header

PREFIX = 5
PIECE = 1024
"""From this size on a part of a message is kept as it came, below it is joined to others: many tiny ones cost memory."""
YEAR = 366 * 86400.0

HEAD: list[Header] = [
    (b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip"),
]  # fmt: skip
OK: list[Header] = [(b"grpc-status", b"0")]

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_RESERVED = frozenset((b"te", b"content-type", b"content-length", b"accept-encoding"))
_UNPRINTABLE = re.compile(rb"[^\x20-\x24\x26-\x7e]")


def http_fault(fields: Mapping[bytes, bytes]) -> bytes:
    """Return the HTTP status of a request that is not gRPC, or nothing."""
    content = fields.get(b"content-type", b"")
    if fields.get(b":method") != b"POST":
        return b"405"
    return b"" if content[:16] == b"application/grpc" and content[16:17] in b"+;" else b"415"


def timeout_seconds(value: bytes) -> float:
    """Return the seconds of a ``grpc-timeout`` such as ``100m``.

    Raises:
        InvalidArgumentError: it has another form.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or len(digits) > 8 or not digits.isdigit():
        raise InvalidArgumentError("grpc-timeout must be up to 8 digits and a unit", reason="MESSAGE_MALFORMED")
    return int(digits) * unit


def stated_deadline(fields: Mapping[bytes, bytes], now: float) -> float | None:
    """Return when the caller of a request gives up, or None.

    Raises:
        InvalidArgumentError: its timeout has another form.
    """
    stated = fields.get(b"grpc-timeout")
    return None if stated is None else now + min(timeout_seconds(stated), YEAR)


def check_encoding(encoding: bytes | None) -> None:
    """Raise UnimplementedError for a ``grpc-encoding`` that is not known."""
    if encoding not in (None, b"identity", b"gzip"):
        raise UnimplementedError("messages may be compressed with gzip or not at all")


@functools.lru_cache(maxsize=1024)
def _metadata_key(name: bytes) -> str:
    """Return the key of a header that callers set, or nothing for one of HTTP, of gRPC or with a binary value."""
    if name[0] == 58 or name in _RESERVED or name[:5] == b"grpc-" or name[-4:] == b"-bin":
        return ""
    return name.decode("ascii")


def text_metadata(headers: Iterable[Header]) -> dict[str, str]:
    """Return the metadata that callers set: no pseudo-headers, nothing of the protocol, nothing binary."""
    return {key: value.decode("latin-1") for name, value in headers if (key := _metadata_key(name))}


def binary_metadata(headers: Iterable[Header]) -> dict[str, bytes]:
    """Return the metadata whose keys end in ``-bin``; of several values in one field the last.

    Raises:
        InvalidArgumentError: a value is not base64.
    """
    found = {}
    for name, value in headers:
        if name[-4:] == b"-bin" and name[:5] != b"grpc-":
            last = value.rpartition(b",")[2].strip().rstrip(b"=")
            try:
                found[name.decode("ascii")] = base64.b64decode(last + b"=" * (-len(last) % 4), validate=True)
            except ValueError:
                raise _malformed(f"the metadata {name.decode('ascii')} is not base64") from None
    return found


def status_trailers(error: HedgerowError) -> list[Header]:
    """Return the trailers of an error: code, percent-encoded message and details, which ``to_status`` keeps short."""
    status = to_status(error)
    message = _UNPRINTABLE.sub(lambda found: b"%%%02X" % found[0][0], status.message.encode())
    details = base64.b64encode(status.SerializeToString()).rstrip(b"=")
    return [(b"grpc-status", b"%d" % status.code), (b"grpc-message", message), (STATUS_DETAILS_KEY.encode(), details)]


def prefix(message: bytes) -> bytes:
    """Return what stands before a message in a body."""
    return struct.pack(">BI", 0, len(message))


class Compressed(bytes):
    """A message as it came, to be decompressed when its turn comes: what waits stays small."""

    __slots__ = ()


class Messages:
    """Cuts a request's body into messages, however its bytes come.

    Attributes:
        missing: bytes to the end of the prefix, or of the message behind it.
    """

    __slots__ = ("_compressed", "_compressible", "_limit", "_pieces", "_size", "missing")

    def __init__(self, limit: int, encoding: bytes | None) -> None:
        """Start a body.

        Args:
            limit: the most bytes of a message, before and after decompression.
            encoding: value of ``grpc-encoding``.

        Raises:
            UnimplementedError: the encoding is not known.
        """
        check_encoding(encoding)
        self._limit = limit
        self._compressible = encoding == b"gzip"
        self._pieces: list[bytes | bytearray] = []
        self.missing = PREFIX
        self._size = -1
        self._compressed = False

    @property
    def partial(self) -> int:
        """Bytes of a message whose end has not come."""
        return sum(map(len, self._pieces))

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete.

        Raises:
            ResourceExhaustedError: a message is too large.
            InvalidArgumentError: the form is wrong.
        """
        size = len(data) - PREFIX
        whole = self._size < 0 and not self._pieces and size >= 0 and not data[0]
        if whole and int.from_bytes(data[1:PREFIX], "big") == size <= self._limit:
            return [data[PREFIX:]]  # most requests: one frame, one message
        return self._assemble(data)

    def _assemble(self, data: bytes) -> list[bytes]:
        complete: list[bytes] = []
        position, end = 0, len(data)
        while True:
            taken = min(self.missing, end - position)
            self._keep(data if taken == end else data[position : position + taken])
            position += taken
            self.missing -= taken
            if self.missing:
                return complete
            if self._size < 0:
                self._begin()
            else:
                complete.append(self._end())

    def _keep(self, piece: bytes) -> None:
        pieces = self._pieces
        if len(piece) >= PIECE:
            pieces.append(piece)
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        elif piece:
            pieces.append(bytearray(piece))

    def _begin(self) -> None:
        flag, self._size = struct.unpack(">BI", b"".join(self._pieces))
        self._pieces.clear()
        if flag > 1 or (flag and not self._compressible):
            raise _malformed("a message is compressed, but grpc-encoding says it is not")
        self._compressed = bool(flag)
        if self._size > self._limit:
            raise _too_large(f"has {self._size} bytes", self._limit)
        self.missing = self._size

    def _end(self) -> bytes:
        message = b"".join(self._pieces)
        self._pieces.clear()
        self._size, self.missing = -1, PREFIX
        return Compressed(message) if self._compressed else message

    def finish(self) -> None:
        """Check that the body ends where a message ends.

        Raises:
            InvalidArgumentError: it does not.
        """
        if self._pieces or self._size >= 0:
            raise _malformed("the request ends in the middle of a message")


def decompress(message: Compressed, limit: int) -> bytes:
    """Return what was compressed, made no longer than ``limit`` on the way.

    Raises:
        ResourceExhaustedError: it is longer.
        InvalidArgumentError: it is not one whole gzip stream.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(message, limit + 1)
    except zlib.error as error:
        raise _malformed("a message is not gzip, as grpc-encoding says it is") from error
    if len(plain) > limit:
        raise _too_large("is larger when decompressed", limit)
    if not stream.eof or stream.unused_data:
        raise _malformed("a compressed message is cut off or followed by more")
    return plain


def _too_large(what: str, limit: int) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"the message {what} and this call takes at most {limit}; send less at a time", reason="MESSAGE_TOO_LARGE"
    )


def _malformed(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(what, reason="MESSAGE_MALFORMED")
