"""Log lines are JSON, one each, in the node's home and on stderr."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost_consensus.crypto import Ed25519Signer
from milepost_node.logs import JsonLines, configure_logs
from tests.support.nodes import make_upload, open_cluster, put_files, wait_until


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


SECRETS = hashlib.sha256(b"node-0").digest()
"""The seed that the key of node 0 is written with."""


def find_secrets(text: str, *seeds: bytes) -> list[str]:
    """What of these seeds, and of what is derived from them, stands in a text."""
    found = []
    for seed in seeds:
        signer = Ed25519Signer.from_seed(seed)
        for name, secret in (
            ("seed", seed),
            ("onion", signer.derive("onion/0")),
            ("scalar", hashlib.sha512(seed).digest()[:32]),
        ):
            shown = (secret.hex()[:16], repr(secret)[2:18], str(list(secret))[1:24])
            found += [name for each in shown if each in text]
            found += [name for each in (base64.b64encode(secret)[:12].decode(),) if each in text]
    return found


@pytest.mark.slow
async def test_a_node_at_work_logs_no_secret(
    tmp_path: Path, quiet_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(tmp_path, "debug")
    async with open_cluster(tmp_path / "net", 4, malicious={3: "chaotic"}) as cluster:
        upload = make_upload()
        cluster.announce(upload)
        async with cluster.connect() as client:
            await put_files(client, upload.files)
            await client.post("/v1/transactions", content=cluster.sign(upload.submit))
            await client.post("/v1/transactions", content=b"rubbish")
        node = cluster.nodes[0]
        await wait_until(lambda: node.runtime.state.verdicts, "a verdict")
        logger = logging.getLogger("milepost_node.test")
        # What somebody may write who looks for a defect in a hurry.
        logger.error("state", extra={"settings": node.settings, "signer": node.settings.signer})
        logger.error("all of it %s", vars(node.settings))
        try:
            raise RuntimeError(node.settings)
        except RuntimeError:
            logger.exception("failed", extra={"onion": node._onion, "seed": SECRETS})
    text = (tmp_path / "node.log").read_text()
    assert "record held" in text
    assert "MISBEHAVING" in text
    assert text.count("\n") > 20
    seeds = [hashlib.sha256(f"node-{i}".encode()).digest() for i in range(4)]
    assert seeds[0] == SECRETS
    assert find_secrets(text + capsys.readouterr().err, *seeds) == []


def test_the_search_for_secrets_finds_them() -> None:
    for text in (SECRETS.hex(), repr(SECRETS), str(list(SECRETS)), base64.b64encode(SECRETS)):
        assert find_secrets(f"x {text!s} y", SECRETS)
