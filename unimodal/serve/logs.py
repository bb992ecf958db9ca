"""Log lines: JSON for machines, text for people. What clients send is in none of them, nor are
their keys.
"""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal

import orjson

request_id: ContextVar[str] = ContextVar(
    "request_id", default=""
)  # of the request that a line is about


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, id of the request, the line's facts,
    and a trace.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := request_id.get():
            line["id"] = name
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """The same for a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """The line without the trace."""
        facts = getattr(record, "facts", {})
        # Escaped: a path may hold line ends and a terminal's commands.
        told = "".join(
            f" {key}={str(value).encode('unicode_escape').decode()}"
            for key, value in facts.items()
        )
        name = request_id.get()
        return super().formatMessage(record) + told + (f" id={name}" if name else "")


def write_logs(kind: Literal["auto", "json", "text"]) -> None:
    """Send this package's lines, and uvicorn's warnings, to stderr; "auto" is text on a terminal
    and JSON elsewhere.
    """
    as_json = kind == "json" or (kind == "auto" and not sys.stderr.isatty())
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonLines() if as_json else TextLines())
    for name in ("unimodal", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [to_stderr]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "unimodal" else logging.WARNING)
