"""Mutated frames: whatever comes, the server lives, logs nothing untoward and serves the next caller.

A short run here; ``python -m tests.integration.rpc_lane.test_rpc_lane_fuzz SECONDS SEED`` runs longer.
"""

from __future__ import annotations

import asyncio
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hpack
import pytest

from tests.integration.rpc_lane.conftest import REPOSITORY, LaneProcess
from tests.support.h2_peer import (
    BOTH,
    DATA,
    ECHO,
    END_HEADERS,
    HEADERS,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW,
    H2Peer,
    client_context,
    ended,
    frame,
    message,
    setting,
)

SECONDS = 4.0
ODD = (0, 1, 100, 16384, 1 << 24, 1 << 30, (1 << 31) - 1)


def frames(chance: random.Random) -> list[bytes]:
    """Return frames that are mostly right."""
    encoder = hpack.Encoder()
    made = [frame(SETTINGS, 0, 0)]
    for number in range(chance.randint(1, 6)):
        stream = 1 + 2 * number
        fields = [
            (":method", "POST"), (":scheme", "https"), (":path", chance.choice((ECHO, BOTH, "/x/y"))),
            (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers"),
            ("grpc-timeout", f"{chance.randint(0, 300)}m"), ("grpc-encoding", chance.choice(("identity", "gzip", "x"))),
        ]  # fmt: skip
        flags = END_HEADERS if chance.random() < 0.9 else 0
        made.append(frame(HEADERS, flags, stream, encoder.encode(fields[: chance.randint(4, 8)])))
        body = message(chance.randbytes(chance.randint(0, 40)))
        made += [
            frame(DATA, chance.choice((0, 0, 1, 8)), stream, body[: chance.randint(0, len(body))])
            for _ in range(chance.randint(0, 3))
        ]
        if chance.random() < 0.3:
            made.append(frame(RST, 0, stream, struct.pack(">I", chance.randint(0, 14))))
        if chance.random() < 0.3:
            made.append(frame(WINDOW, 0, chance.choice((0, stream)), struct.pack(">I", chance.choice(ODD))))
        if chance.random() < 0.2:
            made.append(frame(SETTINGS, 0, 0, setting(chance.randint(0, 9), chance.choice(ODD))))
        if chance.random() < 0.2:
            size, stream = chance.randint(0, 40), chance.choice((0, stream, 2, 999))
            made.append(frame(chance.randint(0, 20), chance.randint(0, 255), stream, chance.randbytes(size)))
    if chance.random() < 0.2:
        chance.shuffle(made)
    return made


def mutated(chance: random.Random) -> bytes:
    """Return such frames with some bytes changed."""
    sent = bytearray(b"".join(frames(chance)))
    for _ in range(chance.choice((0, 0, 1, 2, 5))):
        sent[chance.randrange(len(sent))] = chance.randrange(256)
    return bytes(sent)


def fuzz(process: LaneProcess, seconds: float, seed: int) -> int:
    """Send until the time is up; return how many connections were used."""
    chance, count, end = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with H2Peer(process.port, process.context, hello=False) as peer:
            sent, at = PREFACE + mutated(chance), 0
            while at < len(sent):
                size = chance.choice((1, 5, 9, 30, 1000, 1000))
                if not peer.send(sent[at : at + size]):
                    break
                at += size
            peer.frames(seconds=chance.choice((0.0, 0.002, 0.01)))
        count += 1
    return count


def check(process: LaneProcess, before: int) -> None:
    """Expect that the server serves and has not grown."""
    with process.peer() as peer:
        peer.send(peer.call(1, b"\x0a\x03abc"))
        assert peer.status(peer.frames(ended(1)), 1) == "0"
    assert process.memory() - before < 32


@pytest.mark.parametrize("seed", [1])
async def test_mutated_frames(process: LaneProcess, seed: int) -> None:
    await asyncio.to_thread(fuzz, process, 0.5, 0)
    before = process.memory()
    assert await asyncio.to_thread(fuzz, process, SECONDS, seed) > 50
    await asyncio.to_thread(check, process, before)


def main() -> None:
    """Run for as long as told."""
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "benchmarks.rpc.server", "lane", "chain", str(Path(tmp) / "ana")]
        errors = Path(tmp) / "errors"
        with (
            errors.open("wb") as stderr,
            subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, text=True) as child,
        ):
            try:
                assert child.stdout is not None
                port, pid = child.stdout.readline().split()
                process = LaneProcess(int(port), int(pid), client_context(Path(tmp) / "ana"))
                fuzz(process, 1.0, 0)
                before = process.memory()
                count = fuzz(process, seconds, seed)
                check(process, before)
                assert child.poll() is None
                if logged := errors.read_text():
                    raise SystemExit(f"seed {seed}: the server logged {logged[:4000]}")
                print(f"{count} connections, seed {seed}: alive, {process.memory()} MiB")
            finally:
                child.kill()


if __name__ == "__main__":
    main()
