"""Resource names and page tokens.

A name is built from a pattern such as ``models/{model}/versions/{version}``. Ids are 1 to 63 characters of
``[a-z0-9_-]`` and start with a letter or a digit.
"""

from __future__ import annotations

import base64
import functools
import re

from hedgerow.errors import InvalidArgumentError

_ID = r"[a-z0-9][a-z0-9_-]{0,62}"
_ID_RE = re.compile(_ID)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    out = "".join(f"(?P<{part}>{_ID})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(out)


def parse(pattern: str, value: str, *, field: str) -> dict[str, str]:
    """Return the ids in a name.

    Raises:
        InvalidArgumentError: the value does not match the pattern; ``field`` is named.
    """
    match = _compiled(pattern).fullmatch(value)
    if match is None:
        raise InvalidArgumentError(
            f"{field} must be a name of the form {pattern}", fields={field: f"expected the form {pattern}"}
        )
    return match.groupdict()


def build(pattern: str, **ids: str) -> str:
    """Return a name from a pattern and ids, as in ``build("datasets/{dataset}", dataset="clients")``."""
    return pattern.format(**ids)


def check_id(value: str, field: str) -> str:
    """Return the id.

    Raises:
        InvalidArgumentError: it is not 1 to 63 characters of ``[a-z0-9_-]`` starting with a letter or digit.
    """
    if not _ID_RE.fullmatch(value):
        raise InvalidArgumentError(
            f"{field} must be 1 to 63 characters of [a-z0-9_-], starting with a letter or digit",
            fields={field: "expected 1 to 63 characters of [a-z0-9_-], starting with a letter or digit"},
        )
    return value


def encode_page_token(key: str) -> str:
    """Return an opaque token that continues a listing after ``key``."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_page_token(token: str) -> str | None:
    """Return the key in a token, or None for the first page.

    Raises:
        InvalidArgumentError: the token is not one that a listing returned.
    """
    if not token:
        return None
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise InvalidArgumentError(
            "page_token is not one that a listing returned", fields={"page_token": "use next_page_token unchanged"}
        ) from error


def page_size(value: int, *, default: int = 100, maximum: int = 1000) -> int:
    """Return the number of items for a page: the default for 0, at most the maximum.

    Raises:
        InvalidArgumentError: the value is negative.
    """
    if value < 0:
        raise InvalidArgumentError("page_size must not be negative", fields={"page_size": "expected 0 or more"})
    return min(value or default, maximum)
