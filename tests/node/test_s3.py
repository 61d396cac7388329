"""The archive on a real S3 server in a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from milepost_node import archive as archive_module
from milepost_node.archive import Archive, open_archive
from milepost_node.errors import ArchiveError
from tests.support.install import install_apart

pytestmark = pytest.mark.slow

LARGE = os.urandom(20 * 1024 * 1024)
"""More than two parts of a multipart upload."""
DIGEST = hashlib.sha256(LARGE).digest()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server with one bucket, until the module is done."""
    site = install_apart("moto[server]==5.2.5")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            url = next(
                line.split()[-1] for line in server.stderr if "Running on http://127.0.0.1" in line
            )
            httpx.put(f"{url}/records").raise_for_status()
            yield url
        finally:
            server.terminate()


@pytest.fixture
def opened(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "node")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return open_archive("s3://records/net/node-0", endpoint=endpoint, region="eu-north-1")


async def test_large_files_come_back_from_s3(
    opened: Archive, endpoint: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(LARGE)
    await opened.put(DIGEST, file)
    found = await opened.open(DIGEST)
    hasher = hashlib.sha256()
    async for piece in found.pieces:
        assert len(piece) < len(LARGE) / 2, "in pieces"
        hasher.update(piece)
    assert (hasher.digest(), found.size_bytes) == (DIGEST, len(LARGE))
    again = open_archive("s3://records/net/node-0", endpoint=endpoint, region="eu-north-1")
    await again.look()
    assert again.has(DIGEST)
    elsewhere = open_archive("s3://records/net/node-1", endpoint=endpoint, region="eu-north-1")
    await elsewhere.look()
    assert len(elsewhere) == 0


async def test_a_bucket_that_is_not_there_is_said(
    opened: Archive, endpoint: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    other = open_archive("s3://nowhere", endpoint=endpoint, region="eu-north-1")
    with pytest.raises(ArchiveError, match="404 Not Found"):
        await other.put(DIGEST, file)


async def test_a_server_that_is_not_there_is_given_up(
    opened: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "RETRY", archive_module.RETRY / 100)
    gone = open_archive("s3://records", endpoint="http://127.0.0.1:9", region="eu-north-1")
    with pytest.raises(ArchiveError, match="object store failed"):
        await gone.look()
