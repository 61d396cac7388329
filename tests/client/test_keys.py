from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from milepost.errors import MilepostError, NotAllowed, WrongUsage
from milepost.keys import is_encrypted, read_key, write_key
from milepost_node.errors import SettingsError
from milepost_node.settings import read_settings
from tests.support.cli import run_cli
from tests.support.nodes import make_named_genesis, write_home


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


def write_passphrase(path: Path, text: str = "correct horse") -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def test_an_encrypted_key_opens_with_its_passphrase_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILEPOST_PASSPHRASE_FILE", raising=False)
    path, seed = tmp_path / "my.key", bytes(range(32))
    signer = write_key(path, seed, passphrase=b"correct horse")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_encrypted(path)
    assert seed.hex() not in path.read_text()
    assert base64.b64encode(seed)[:20] not in path.read_bytes()
    assert read_key(path, passphrase=b"correct horse").public == signer.public
    for opened in (None, b"wrong"):
        with pytest.raises(WrongUsage) as caught:
            read_key(path, passphrase=opened)
        assert caught.value.slug == "bad-key"
    monkeypatch.setenv("MILEPOST_PASSPHRASE_FILE", str(write_passphrase(tmp_path / "pass")))
    assert read_key(path).public == signer.public
    (tmp_path / "pass").chmod(0o644)
    with pytest.raises(NotAllowed):
        read_key(path)
    path.write_bytes(path.read_bytes()[:-60])
    (tmp_path / "pass").chmod(0o600)
    with pytest.raises(WrongUsage, match="does not open"):
        read_key(path)


def test_a_node_opens_an_encrypted_key_with_a_passphrase_file(tmp_path: Path) -> None:
    genesis = make_named_genesis(1)
    home = write_home(tmp_path / "home", genesis, "node-0")
    seed = bytes.fromhex((home / "node.key").read_text())
    (home / "node.key").unlink()
    public = write_key(home / "node.key", seed, passphrase=b"correct horse").public
    with pytest.raises(SettingsError, match="passphrase_file"):
        read_settings(home)
    toml = home / "node.toml"
    toml.write_text(toml.read_text() + 'passphrase_file = "pass"\n')
    write_passphrase(home / "pass", "wrong")
    with pytest.raises(SettingsError, match="does not open"):
        read_settings(home)
    write_passphrase(home / "pass")
    assert read_settings(home).signer.public == public
    (home / "pass").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600 pass"):
        read_settings(home)


@pytest.mark.slow
def test_the_key_commands_never_print_a_private_key(tmp_path: Path) -> None:
    secret = write_passphrase(tmp_path / "pass")
    plain, closed = tmp_path / "plain.key", tmp_path / "closed.key"
    made = run_cli("key", "new", plain, modules=True)
    assert made.code == 0
    assert not made.modules & {"torch", "numpy", "fastapi", "milepost_node"}
    assert run_cli("key", "new", closed, "--passphrase-file", secret).code == 0
    assert run_cli("key", "new", plain).code == 2
    shown = run_cli("key", "show", closed, "--passphrase-file", secret, "--json")
    assert shown.json["encrypted"] is True
    assert shown.json["public"] == read_key(closed, passphrase=b"correct horse").public.hex()
    refused = run_cli("key", "show", closed)
    assert (refused.code, "bad-key" in refused.err) == (2, True)
    (tmp_path / "open.key").write_text("00" * 32)
    (tmp_path / "open.key").chmod(0o644)
    listed = run_cli("key", "list", tmp_path)
    assert listed.code == 0
    assert "(encrypted)" in listed.out
    assert "key-readable" in listed.out
    assert read_key(plain).public.hex() in listed.out
    everything = made.out + made.err + shown.out + listed.out + refused.err
    assert plain.read_text().strip() not in everything
    assert "PRIVATE" not in everything
