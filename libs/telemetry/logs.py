"""Structured logs: one JSON object per line on standard error, bounded in size, without personal data.

Event names are constants and everything else is a field. Exceptions are logged as their type and the line that raised
them: messages of foreign exceptions and stack traces may quote data, so neither is ever written.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

MAX_VALUE_LENGTH = 500
_ROOT = Path(__file__).resolve().parents[2]


def configure_logging(service: str, *, level: str = "INFO") -> None:
    """Send this process's logs to standard error as JSON lines that name the service."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _bounded,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.ERROR, format='{"event":"library","level":"%(levelname)s","logger":"%(name)s"}')


def get_logger() -> Any:
    """Return the structured logger."""
    return structlog.get_logger()


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
