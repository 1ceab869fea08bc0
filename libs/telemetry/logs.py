"""Structured logs: one JSON object per line on standard error, bounded in size, without personal data.

Event names are constants and everything else is a field. Exceptions are logged as their type and the line that raised
them: messages of foreign exceptions and stack traces may quote data, so neither is ever written. That holds for what
libraries log and for what nobody catches too.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

MAX_VALUE_LENGTH = 500
_ROOT = Path(__file__).resolve().parents[2]


def configure_logging(service: str, *, level: str = "INFO", pid: int | None = None) -> None:
    """Send all that this process has to say to standard error, as JSON lines that name the service, and its process."""

    def named(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Not a context variable: a thread starts without any.
        event["service"] = service
        if pid is not None:
            event["pid"] = pid
        return event

    structlog.configure(
        processors=[
            named,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _bounded,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, handlers=[_LibraryHandler()], force=True)
    sys.excepthook = lambda kind, error, trace: _uncaught(error)
    threading.excepthook = lambda args: _uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _uncaught(args.exc_value)


def get_logger() -> Any:
    """Return the structured logger."""
    return structlog.get_logger()


class _LibraryHandler(logging.Handler):
    """Tells which library has something to say and what it failed with, and not what it says."""

    def emit(self, record: logging.LogRecord) -> None:
        # When standard error cannot be written, the library that had something to say must not fail of it.
        with contextlib.suppress(OSError, ValueError):
            get_logger().error("library", logger=record.name, **_fault(record.exc_info[1] if record.exc_info else None))


def _uncaught(error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):
        get_logger().critical("uncaught", **_fault(error))


def _fault(error: BaseException | None) -> dict[str, str]:
    return {} if error is None else {"error": type(error).__name__, "where": fault_location(error)}


def _bounded(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > MAX_VALUE_LENGTH:
            event[key] = value[:MAX_VALUE_LENGTH] + "…"
    return event


def fault_location(error: BaseException) -> str:
    """Return ``file:line`` of the innermost line of this project that the exception passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and ".venv" not in path.parts:
            return f"{path.relative_to(_ROOT)}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
