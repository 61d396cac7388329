"""Structured logs: one JSON object a line, to stderr and to `node.log` in the node's home.

    logger.info("block", extra={"height": 7})
    {"time":"2026-11-22T05:41:07.120Z","level":"info","from":"runtime","event":"block","height":7}

Keys, records and the bytes of messages are never logged; digests are cut to 16 digits.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

LOG_BYTES: Final = 10 * 1024 * 1024
"""One log file; a full one is renamed and the oldest of LOG_FILES dropped."""
LOG_FILES: Final = 3
ROOT: Final = "milepost_node"
_SECRET: Final = ("passphrase", "private", "secret", "seed")
"""What is named like this is never written, whatever it is."""
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; fields given in `extra` become keys."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, tz=UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "from": record.name.removeprefix(ROOT + "."),
            "event": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key in _STANDARD:
                continue
            if any(word in key for word in _SECRET):
                line[key] = "(secret)"
            else:
                line[key] = value[:8].hex() if isinstance(value, bytes) else value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


def configure_logs(home: Path, level: str) -> None:
    """Send this process's log lines to stderr and to `home`/node.log."""
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        RotatingFileHandler(home / "node.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1),
    ]
    for handler in handlers:
        handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger(ROOT).setLevel(level.upper())
