"""One subject's way out of one table: looked for while appends go on, taken out while none does.

A file never changes once it is written, so what was found before the table is closed to appends still holds then. What
is undecided then is looked at again: files that came since, and those that could not be read, which an append may just
have been writing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from hedgerow.errors import AbortedError, DataLossError
from libs.lake import sealed_file, search
from libs.lake.delta_log import Check, DataFile, DeltaLog
from libs.lake.folder import TableFolder, check_data_file, new_data_file
from libs.lake.keyring import Keyring
from libs.lake.layout import TableLayout


@dataclass(frozen=True)
class ErasureCount:
    """What an erasure did to the objects and rows of one table.

    Attributes:
        objects_rewritten: files that were replaced by one without the rows.
        objects_destroyed: files that held a row, now or once.
        rows_erased: rows of the latest version.
        files: the data files there were when the rows were taken out; later ones are of later appends.
    """

    objects_rewritten: int
    objects_destroyed: int
    rows_erased: int
    files: frozenset[str]


class TableErasure:
    """The steps; ``LakeTable.erase`` puts them in order.

    Attributes:
        held: the files to destroy, with their number of rows of the subject, 0 for unreadable orphans.
        unused: files that were written and that no version lists.
    """

    def __init__(
        self,
        folder: TableFolder,
        log: DeltaLog,
        layout: TableLayout,
        ring: Keyring,
        *,
        pseudonym: str,
        without: dict[str, datetime],
        check: Check,
    ) -> None:
        """Take the table and the subject.

        Args:
            without: objects known not to hold the subject, and when they were written; more are added.
            check: called between files; raises to stop.
        """
        self._folder = folder
        self._log = log
        self._layout = layout
        self._ring = ring
        self._pseudonym = pseudonym
        self._without = without
        self._check = check
        self._looked: set[str] = set()
        self._named: set[str] | None = None
        self._rewritten: dict[str, DataFile | None] = {}
        self.held: dict[str, int] = {}
        self.unused: set[str] = set()

    def look(self) -> None:
        """Find the files that hold the subject, and write anew those that the latest version lists. Takes no lock."""
        live = frozenset(self._log.snapshot().files)
        for name, written in self._folder.data_files().items():
            self._check()
            with contextlib.suppress(DataLossError, AbortedError):  # undecided
                self._look_at(name, written)
                if name in live and name in self.held:
                    self._rewrite(name)

    def take_out(self, receipt: str) -> ErasureCount:
        """Commit a version without the subject. Nothing else may change the table meanwhile.

        Raises:
            DataLossError: a file that a version lists cannot be opened, so it cannot be searched.
            AbortedError: another process changed the table meanwhile.
        """
        live = self._log.snapshot().files
        present = self._folder.data_files()
        for name, written in present.items():
            if name not in self._looked and name not in self.unused:
                self._check()
                self._decide(name, written, live)
        # What is gone is of an append that failed meanwhile.
        self.held = {name: rows for name, rows in self.held.items() if name in present}
        removes = [name for name in live if name in self.held]
        for name in removes:
            if name not in self._rewritten:
                self._check()
                self._rewrite(name)
        adds = [file for name in removes if (file := self._rewritten[name]) is not None]
        if removes:
            self._commit(adds, removes, receipt)
        return ErasureCount(
            objects_rewritten=len(removes),
            objects_destroyed=len(self.held),
            rows_erased=sum(self.held[name] for name in removes),
            files=frozenset(present).union(file.name for file in adds) - self.held.keys(),
        )

    def _commit(self, adds: list[DataFile], removes: list[str], receipt: str) -> None:
        names = {file.name for file in adds}
        # After a fault the outcome may be unknown; then the files stay until ``clean`` finds that no version lists them.
        self.unused -= names
        try:
            self._log.commit(adds=adds, removes=removes, receipt=receipt)
        except AbortedError:
            self.unused |= names
            raise

    def _decide(self, name: str, written: datetime, live: tuple[str, ...]) -> None:
        try:
            self._look_at(name, written)
        except DataLossError:
            if name in live or name in self._named_in_log():
                raise
            # Cut short by a crash: nobody can open it, no version needs it, so it goes too.
            self.held[name] = 0

    def _named_in_log(self) -> set[str]:
        if self._named is None:
            self._named = self._log.referenced(self._check)
        return self._named

    def _look_at(self, name: str, written: datetime) -> None:
        if self._without.get(name) != written:
            rows = search.count_in_sealed(self._folder, name, self._ring, self._pseudonym)
            if rows:
                self.held[name] = rows
            else:
                self._without[name] = written
        self._looked.add(name)

    def _rewrite(self, name: str) -> None:
        with sealed_file.opened(self._folder, check_data_file(name), self._ring) as file:
            rows = sealed_file.strip(file.read(columns=self._layout.schema.names))
        kept: pa.Table = rows.filter(pc.invert(search.rows_holding(rows, self._pseudonym))).cast(self._layout.schema)
        file = None
        if kept.num_rows:
            target = new_data_file()
            self.unused.add(target)
            size = sealed_file.write(self._folder, target, kept, self._layout, self._ring)
            file = DataFile(target, size, kept.num_rows)
        self._rewritten[name] = file
