"""Log lines are JSON, one each, in the node's home and on stderr."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost_node.logs import JsonLines, configure_logs


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """Put the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_line_has_the_fields_of_the_event(
    tmp_path: Path, quiet_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(tmp_path, "info")
    logger = logging.getLogger("milepost_node.runtime")
    logger.info("block", extra={"height": 7, "id": b"\xab" * 32})
    logger.debug("too small to mention")
    [line] = (tmp_path / "node.log").read_text().splitlines()
    row = json.loads(line)
    assert row["time"].endswith("Z")
    assert {key: row[key] for key in ("level", "from", "event", "height", "id")} == {
        "level": "info",
        "from": "runtime",
        "event": "block",
        "height": 7,
        "id": "ab" * 8,
    }
    assert line in capsys.readouterr().err


def test_exceptions_stay_on_one_line_and_odd_values_do_no_harm() -> None:
    record = logging.LogRecord("milepost_node.x", logging.ERROR, "", 0, "oh\nno", (), None)
    record.odd = {1, 2}
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["traceback"]
