"""Log lines: JSON for machines, text for people, without what clients send and without keys."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import Any, Literal

import orjson

# of the request that a line is about
request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonLines(logging.Formatter):
    """One JSON object per line.

    It has time, level, logger, message, the id of the request, the line's facts, and a trace.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
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
        """Format the line without the trace."""
        line = super().formatMessage(record)
        for key, value in getattr(record, "facts", {}).items():
            # a path may hold line ends and a terminal's commands
            escaped = str(value).encode("unicode_escape").decode()
            line += f" {key}={escaped}"
        if name := request_id.get():
            line += f" id={name}"
        return line


def write_logs(kind: Literal["auto", "json", "text"]) -> None:
    """Send the package's lines, and uvicorn's warnings, to stderr.

    "auto" is text on a terminal and JSON elsewhere.
    """
    as_json = kind == "json" or (kind == "auto" and not sys.stderr.isatty())
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonLines() if as_json else TextLines())
    levels = {"unimodal": logging.INFO, "uvicorn": logging.WARNING}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers = [to_stderr]
        logger.propagate = False
        logger.setLevel(level)
