"""Searches logs and texts for the identifier of a subject.

An identifier counts where it stands by itself: `C-12` is not found in `C-123`. One that could be any number or word, that
is, fewer than six digits or fewer than four characters, counts in quotes only, as structured logs write texts; counts and
durations would match it otherwise.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

CHUNK_BYTES = 1024 * 1024
MAX_SUBJECT_CHARACTERS = 256

_WORD = rb"A-Za-z0-9_\x80-\xff"
_OVERLAP_BYTES = 13 * MAX_SUBJECT_CHARACTERS  # percent escapes take 12 bytes for a character of four
_SHORT_DIGITS = 6
_SHORT = 4


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        objects: files or segments opened.
        hits: places that hold a term.
    """

    objects: int
    hits: int


class SubjectSearch:
    """Finds any of a few terms."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Prepare the search.

        Args:
            terms: the raw identifier, where it is known, and the pseudonym; each at most ``MAX_SUBJECT_CHARACTERS``.
        """
        self._pattern = re.compile(b"|".join(_alternatives(terms)))

    def count(self, text: bytes) -> int:
        """Return the number of places in a text."""
        return sum(1 for _ in self._pattern.finditer(text))

    def count_texts(self, texts: Sequence[str]) -> int:
        """Return the number of texts that hold a term, each taken as if in quotes."""
        return sum(1 for text in texts if self.count(b'"' + text.encode() + b'"'))

    def count_stream(self, stream: BinaryIO) -> int:
        """Return the number of places in a stream, read in chunks."""
        window, start, hits = stream.read(CHUNK_BYTES), 0, 0
        while True:
            chunk = stream.read(CHUNK_BYTES)
            # What starts near the end of the window waits for the next chunk, where it is seen whole.
            limit = max(start, len(window) - _OVERLAP_BYTES) if chunk else len(window)
            hits += sum(1 for match in self._pattern.finditer(window) if start <= match.start() < limit)
            if not chunk:
                return hits
            context = max(0, limit - 1)  # one byte before, because a term is judged by its neighbours
            window, start = window[context:] + chunk, limit - context


def search_paths(paths: Iterable[Path], search: SubjectSearch) -> SearchResult:
    """Search files, and every file in folders, rotated and compressed ones included; links are not followed.

    What does not exist holds nothing: a service has no traces before its first sampled call.

    Raises:
        OSError: a file cannot be read.
    """
    objects = hits = 0
    for path in _files(paths):
        try:
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rb") as stream:
                hits += search.count_stream(cast(BinaryIO, stream))
        except FileNotFoundError:  # rotated away meanwhile: its content is in the next file of the walk or gone
            continue
        objects += 1
    return SearchResult(objects, hits)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for start in paths:
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if path.is_file() and not path.is_symlink():
                yield path


def _alternatives(terms: Iterable[str]) -> Iterator[bytes]:
    for term in terms:
        spellings = {term, json.dumps(term)[1:-1], json.dumps(term, ensure_ascii=False)[1:-1], quote(term, safe="")}
        for spelling in sorted(spellings):
            yield _bounded(spelling)


def _bounded(term: str) -> bytes:
    escaped = re.escape(term.encode())
    if len(term) < _SHORT or (term.isdigit() and len(term) < _SHORT_DIGITS):
        return rb"(?<=[\"'])" + escaped + rb"(?=[\"'])"
    edges = _WORD + (rb".:+\-" if term.isdigit() else b"")
    return rb"(?<![" + edges + rb"])" + escaped + rb"(?![" + edges + rb"])"
