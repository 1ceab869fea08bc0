"""The pseudonym function of each domain, its key fetched once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pyarrow as pa

from libs.lake import pseudonym, pseudonym_column

MAX_DOMAINS = 64
# From here on, absorbing the key once for all values is worth building a column.
_COLUMN_PAYS = 8
ToPseudonyms = Callable[[list[str]], list[str]]


class Pseudonyms:
    """Maps raw entity keys to the pseudonyms that the lake holds."""

    def __init__(self, fetch_key: Callable[[str], Awaitable[bytes]]) -> None:
        """Take `fetch_key`: returns the key of a domain from the secrets service."""
        self._fetch_key = fetch_key
        self._functions: dict[str, ToPseudonyms] = {}

    async def of(self, domain: str) -> ToPseudonyms:
        """Return the function of a domain.

        Raises:
            HedgerowError: its key is not to be had.
        """
        known = self._functions.get(domain)
        if known is None:
            if len(self._functions) >= MAX_DOMAINS:
                self._functions.clear()
            known = self._functions[domain] = partial(_pseudonyms, await self._fetch_key(domain))
        return known


def _pseudonyms(key: bytes, values: list[str]) -> list[str]:
    if len(values) < _COLUMN_PAYS:
        return [pseudonym(key, value) for value in values]
    found: list[str] = pseudonym_column(key, pa.array(values, pa.string())).to_pylist()
    return found
