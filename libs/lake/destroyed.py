"""Remembers which files an erasure destroyed, and under which receipt. Holds no data of the subject."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Collection, Iterable

from hedgerow.errors import DataLossError
from libs.lake.folder import TableFolder

_FOLDER = "_erasures"


class DestroyedFiles:
    """One small JSON object per erasure and table, read once and then kept in memory by the one writer."""

    def __init__(self, folder: TableFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._receipts: dict[str, str] | None = None

    def receipt_of(self, files: Iterable[str]) -> str | None:
        """Return the receipt under which one of the files was destroyed, or None when none was."""
        receipts = self._loaded()
        return next((receipts[name] for name in files if name in receipts), None)

    def record(self, files: Collection[str], receipt: str) -> None:
        """Write down, durably, that files are about to be destroyed. Do this before deleting them."""
        fresh = sorted(name for name in files if name not in self._loaded())
        if not fresh:
            return
        name = f"{_FOLDER}/{uuid.uuid4()}.json"
        content = json.dumps({"receipt": receipt, "files": fresh}).encode()
        # Under another name first, so that a crash never leaves half a record behind.
        draft = f"draft-{uuid.uuid4()}"
        self._folder.write(draft, lambda sink: sink.write(content))
        self._folder.move(draft, name)
        with self._lock:
            self._receipts = {**(self._receipts or {}), **dict.fromkeys(fresh, receipt)}

    def _loaded(self) -> dict[str, str]:
        with self._lock:
            if self._receipts is None:
                self._receipts = self._load()
            return self._receipts

    def _load(self) -> dict[str, str]:
        receipts: dict[str, str] = {}
        for name in self._folder.objects():
            if not name.startswith(f"{_FOLDER}/"):
                continue
            try:
                record = json.loads(self._folder.read(name))
                receipts.update(dict.fromkeys(record["files"], record["receipt"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataLossError("a record of destroyed files cannot be read", metadata={"file": name}) from error
        return receipts
