"""Every wrong setting is refused with the file, the key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost_consensus.problems import PROBLEMS
from milepost_node.behaviours.builtin import BEHAVIOURS
from milepost_node.behaviours.registry import HONEST
from milepost_node.errors import SettingsError
from milepost_node.settings import Limits, read_settings
from tests.support.ledger import make_signer
from tests.support.nodes import make_named_genesis, write_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_home(tmp_path / "home", make_named_genesis(4), "node-1")


def append(home: Path, text: str) -> None:
    """Add lines to node.toml."""
    file = home / "node.toml"
    file.write_text(file.read_text() + text)


def replace(home: Path, old: str, new: str) -> None:
    """Change node.toml."""
    file = home / "node.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_home_as_milepost_dev_writes_it(home: Path) -> None:
    settings = read_settings(home)
    assert (settings.host, settings.port, settings.name) == ("127.0.0.1", 7101, "node-1")
    assert settings.signer.public == make_signer("node-1").public
    assert settings.genesis == make_named_genesis(4)
    assert settings.threads == 1
    assert settings.limits == Limits()


def test_threads_can_be_set(home: Path) -> None:
    append(home, "threads = 3\n")
    assert read_settings(home).threads == 3


def test_the_gpu_can_be_left_alone(home: Path) -> None:
    assert read_settings(home).gpu
    append(home, "gpu = false\n")
    assert not read_settings(home).gpu


def test_limits_can_be_set(home: Path) -> None:
    append(home, "[limits]\nblob_bytes = 2048\nretrace_seconds = 60\n")
    assert read_settings(home).limits == Limits(blob_bytes=2048, retrace_seconds=60)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port = 7101", "port = 70000", r"port = 70000 must be a whole number from 1 to 65535"),
        ("port = 7101", 'port = "7101"', r"port = '7101' must be a whole number"),
        ("port = 7101", "port = true", r"port = True must be a whole number"),
        ("port = 7101\n", "", r"port = None must be a whole number from 1 to 65535"),
        (
            'behaviour = ""',
            'behaviour = "idle"',
            r"'idle' must be one of \"\", \"ordered\", .*lazy",
        ),
        ('behaviour = ""', "behaviour = []", r"behaviour = \[\] must be one of"),
        ('behaviour = ""', 'behaviour = "mine.py:x"', r"mine.py does not run: FileNotFoundError"),
        ('behaviour = ""', 'clique = "acme"', r"clique = 'acme' must be a list of texts"),
        ('name = "node-1"', "name = 7", r"name = 7 must be text"),
        ('name = "node-1"', 'name = ""', r"name = '' must be text"),
        ('name = "node-1"', 'nmae = "node-1"', r"unknown key 'nmae'; known are .*name"),
        ('behaviour = ""', 'log_level = "loud"', r"log_level = 'loud' must be one of"),
        ('behaviour = ""', "threads = 0", r"threads = 0 must be a whole number from 1 to 1024"),
        ('behaviour = ""', 'gpu = "0"', r"gpu must be true or false"),
        ('behaviour = ""', "limits = 3", r"limits must be a table"),
        (
            'behaviour = ""',
            "[limits]\nblobs = 1",
            r"unknown key limits.blobs; known are admissions",
        ),
        ('behaviour = ""', "[limits]\nblob_bytes = 1", r"limits.blob_bytes = 1 must be a whole"),
        ('behaviour = ""', "[limits", r"node.toml is not TOML"),
    ],
)
def test_wrong_setting_is_named(home: Path, old: str, new: str, message: str) -> None:
    replace(home, old, new)
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(home)
    assert caught.value.slug == "bad-config"
    assert "node.toml" in str(caught.value)


def test_nobody_misbehaves_without_being_told(home: Path) -> None:
    assert read_settings(home).behaviour is HONEST


def test_behaviour_holds_on_the_network_that_is_named_with_it_and_on_no_other(home: Path) -> None:
    replace(home, 'behaviour = ""', 'behaviour = "lazy"')
    assert read_settings(home).behaviour is BEHAVIOURS["lazy"]
    for other in ('behaviour_network = "live"\n', ""):
        replace(home, 'behaviour_network = "test"\n', other)
        with pytest.raises(SettingsError, match='write behaviour_network = "test"'):
            read_settings(home)
        append(home, 'behaviour_network = "test"\n')


OWN = """
from milepost_node.behaviours.registry import behaviour

@behaviour("shy")
async def shy(question):
    \"\"\"Says nothing.\"\"\"
    return None
"""


def test_behaviour_of_the_operator_s_own(home: Path) -> None:
    (home / "mine.py").write_text(OWN)
    replace(home, 'behaviour = ""', 'behaviour = "mine.py:shy"')
    assert read_settings(home).behaviour.summary == "Says nothing."
    replace(home, "mine.py:shy", "mine.py:lazy")
    with pytest.raises(SettingsError, match=r"must be one of \"\", \"shy\""):
        read_settings(home)
    (home / "mine.py").write_text("1 / 0")
    with pytest.raises(SettingsError, match=r"mine.py does not run: ZeroDivisionError"):
        read_settings(home)


@pytest.mark.parametrize(
    ("file", "content", "slug"),
    [
        ("node.key", "not hex", "bad-key"),
        ("node.key", "ab" * 31, "bad-key"),
        ("node.key", "", "bad-key"),
        ("genesis.json", "{", "bad-genesis"),
        ("genesis.json", "[]", "bad-genesis"),
        ("genesis.json", "[" * 100_000, "bad-genesis"),
        ("genesis.json", '{"network": "x"}', "bad-genesis"),
        ("node.toml", "\xff", "bad-config"),
    ],
)
def test_broken_file_is_named(home: Path, file: str, content: str, slug: str) -> None:
    (home / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=file) as caught:
        read_settings(home)
    assert caught.value.slug == slug
    assert slug in PROBLEMS


@pytest.mark.parametrize("file", ["node.toml", "node.key", "genesis.json"])
def test_missing_file_is_named(home: Path, file: str) -> None:
    (home / file).unlink()
    with pytest.raises(SettingsError, match=f"There is no {file}"):
        read_settings(home)


def test_key_that_others_can_read_is_refused(home: Path) -> None:
    (home / "node.key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        read_settings(home)
    assert caught.value.slug == "key-readable"


def test_messages_do_not_show_the_key(home: Path) -> None:
    secret = (home / "node.key").read_text().strip()
    (home / "node.key").write_text(secret[:-2])
    with pytest.raises(SettingsError) as caught:
        read_settings(home)
    assert secret[:16] not in str(caught.value)
    assert secret[:16] not in repr(
        read_settings(write_home(home / "b", make_named_genesis(4), "node-1"))
    )
