"""The search of logs for a subject."""

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.governance import subject_search
from services.governance.subject_search import SearchResult, SubjectSearch, search_paths


def hits(term: str, text: str) -> int:
    return SubjectSearch([term]).count(text.encode())


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("client-00017", "client client-00017 was refused", 1),
        ("client-00017", '{"subject":"client-00017"}', 1),
        ("client-00017", "/clients/client-00017?x", 1),
        ("client-00017", "client-000171", 0),
        ("client-00017", "xclient-00017", 0),
        ("client-00017", "client-00017 client-00017.", 2),
        ("17", "took 17 ms", 0),
        ("17", '{"subject":"17"}', 1),
        ("17", "{'subject': '17'}", 1),
        ("20001234", "subject 20001234,", 1),
        ("20001234", "2026-11-25T03:00:00.20001234Z", 0),
        ("20001234", "0.20001234", 0),
        ("ana@example.org", "mail ana%40example.org", 1),
        ("Zoë Müller", json.dumps({"name": "Zoë Müller"}), 1),
        ("Zoë Müller", "Zoë Müller", 1),
        ('a"b"c"d', json.dumps({"x": 'a"b"c"d'}), 1),
        ("a.b.c.d", "a.b.c.d", 1),
        ("a.b.c.d", "axbxcxd", 0),
    ],
)
def test_an_identifier_counts_where_it_stands_by_itself(term: str, text: str, found: int) -> None:
    assert hits(term, text) == found


def test_any_of_several_terms_counts() -> None:
    assert SubjectSearch(["client-1", "0f" * 16]).count(b"client-1 and " + b"0f" * 16) == 2


def test_texts_count_as_if_in_quotes() -> None:
    assert SubjectSearch(["17"]).count_texts(["17", "x17", "17"]) == 2


@given(st.lists(st.sampled_from(["client-7", "client-77", " ", "\n", "x", "client-"]), max_size=60), st.integers(1, 30))
@settings(max_examples=200)
def test_chunks_do_not_change_what_is_found(pieces: list[str], chunk: int) -> None:
    text = "".join(pieces).encode()
    search = SubjectSearch(["client-7"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject_search, "CHUNK_BYTES", chunk)
        patch.setattr(subject_search, "_OVERLAP_BYTES", 12)
        assert search.count_stream(io.BytesIO(text)) == search.count(text)


def test_rotated_and_compressed_logs_are_searched_and_links_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("nothing\n")
    (tmp_path / "a.log.1").write_text("client-7\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "b.log.gz").write_bytes(gzip.compress(b"client-7 client-7"))
    (tmp_path / "link").symlink_to(tmp_path / "a.log.1")
    assert search_paths([tmp_path], SubjectSearch(["client-7"])) == SearchResult(objects=3, hits=3)


def test_several_folders_and_files_are_searched_and_absent_ones_hold_nothing(tmp_path: Path) -> None:
    logs, traces = tmp_path / "logs", tmp_path / "ingestion" / "traces.jsonl"
    for folder in (logs, traces.parent):
        folder.mkdir()
    (logs / "a.log").write_text("client-7\n")
    (traces.parent / "secret.bin").write_text("client-7\n")
    traces.write_text('{"attributes":{"subject":"client-7"}}\n')
    paths = [logs, traces, tmp_path / "features" / "traces.jsonl"]
    assert search_paths(paths, SubjectSearch(["client-7"])) == SearchResult(objects=2, hits=2)
