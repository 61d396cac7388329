from __future__ import annotations

import stat
from pathlib import Path

import pytest

from milepost.errors import MilepostError, NotAllowed, WrongUsage
from milepost.keys import read_key, write_key


def test_a_written_key_is_ours_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    signer = write_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).public == signer.public
    assert write_key(tmp_path / "other.key").public != signer.public


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    signer = write_key(path, bytes(32))
    with pytest.raises(WrongUsage):
        write_key(path)
    assert read_key(path).public == signer.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my.key"
    write_key(path)
    path.chmod(mode)
    with pytest.raises(NotAllowed) as caught:
        read_key(path)
    assert caught.value.slug == "key-readable"
    assert "chmod 600" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"ab", b"zz" * 32, b"00" * 33, b"\xff" * 64])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MilepostError) as caught:
        read_key(path)
    assert caught.value.slug == "bad-key"


def test_a_missing_key_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage) as caught:
        read_key(tmp_path / "none.key")
    assert caught.value.slug == "bad-key"
