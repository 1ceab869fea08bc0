"""The certificates to refuse, kept over a restart: a service is judging callers before the secrets service has spoken."""

from __future__ import annotations

import json
from pathlib import Path

from hedgerow.errors import DataLossError
from hedgerow.private_file import write_private


class RevocationFile:
    """``trust/revoked.json`` in a service's folder. Methods block for a small file."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "trust" / "revoked.json"

    def load(self) -> frozenset[str]:
        """Return the serials that were kept last; none at the first start.

        Raises:
            DataLossError: the file is damaged.
        """
        try:
            serials = json.loads(self._path.read_text())
        except FileNotFoundError:
            return frozenset()
        except ValueError as error:
            raise DataLossError("the kept list of revoked certificates is damaged") from error
        return frozenset(map(str, serials))

    def keep(self, serials: frozenset[str]) -> None:
        """Replace the list; it is on disk when this returns."""
        write_private(self._path, json.dumps(sorted(serials)).encode())
