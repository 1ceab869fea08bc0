"""Searches everything the suite keeps on disk, byte by byte, for data that can be read without a key."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK = 8 * 1024 * 1024
# Pieces overlap by more than the longest identifier, so that nothing hides on an edge.
OVERLAP = 256
_SEALED = b"PARE"
# Marks of formats that hold records in clear. An encrypted Parquet file starts with PARE instead of PAR1.
_MAGIC = (b"PAR1", b"ARROW1\0\0", b"SQLite format 3\0")
# An object store keeps many objects in one file, a volume. There the marks are looked for anywhere, with enough of what
# follows them that no sealed byte string looks like one by chance: the length of the first module, or of a page's header.
_VOLUME = ".dat"
_SEALED_WITHIN = re.compile(rb"PARE..\0\0", re.DOTALL)
_MAGIC_WITHIN = re.compile(
    rb"PAR1\x15[\x00\x04\x06]\x15|ARROW1\0\0|\xff{4}..\0\0\x10\0\0\0|SQLite format 3\0", re.DOTALL
)


@dataclass(frozen=True)
class DiskSearch:
    """What a search found.

    Attributes:
        files: files searched. bytes: bytes searched. sealed: encrypted Parquet files among or in them.
        plaintext: files with records in clear: by format, or by an identifier in them.
        hits: files with one of the words looked for.
    """

    files: int
    bytes: int
    sealed: int
    plaintext: Sequence[Path]
    hits: Sequence[Path]


def search(folder: Path, identifiers: re.Pattern[bytes], words: Sequence[bytes]) -> DiskSearch:
    """Searches every file under a folder.

    identifiers: matches an identifier of any subject, at most OVERLAP bytes long. words: what must not be found anywhere.
    """
    wanted = re.compile(b"|".join(re.escape(word) for word in words)) if words else None
    files, size, sealed, plaintext, hits = 0, 0, 0, [], []
    for path in _files(folder):
        files += 1
        in_clear, found = False, False
        is_volume = path.suffix == _VOLUME
        for start, piece in _pieces(path):
            size += len(piece) - (0 if start else OVERLAP)
            if is_volume:
                sealed += len(_SEALED_WITHIN.findall(piece))
                in_clear |= _MAGIC_WITHIN.search(piece) is not None
            else:
                sealed += start and piece.startswith(_SEALED)
                in_clear |= start and _has_magic(piece)
            in_clear |= identifiers.search(piece) is not None
            found |= wanted is not None and wanted.search(piece) is not None
        if in_clear:
            plaintext.append(path)
        if found:
            hits.append(path)
    return DiskSearch(files, size, sealed, plaintext, hits)


def _has_magic(head: bytes) -> bool:
    # An Arrow stream starts with a continuation mark and the length of its schema, which is far below 64 KiB.
    arrow_stream = head.startswith(b"\xff\xff\xff\xff") and head[6:8] == b"\0\0"
    return arrow_stream or head.startswith(_MAGIC)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _pieces(path: Path) -> Iterator[tuple[bool, bytes]]:
    """Yields a file in pieces, with whether it is the first; later ones begin with the end of the one before."""
    try:
        with path.open("rb") as file:
            piece, start = file.read(CHUNK), True
            while piece:
                yield start, piece
                rest, start = file.read(CHUNK), False
                piece = piece[-OVERLAP:] + rest if rest else b""
    except FileNotFoundError:
        # A service may replace a file while the search walks; its successor is searched in its own right.
        return
