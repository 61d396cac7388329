"""What the doctor finds in homes that are broken in one way each, and says to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from milepost_consensus.members import compute_network_id
from milepost_consensus.views import to_view
from milepost_node import doctor
from milepost_node.doctor import FAIL, OK, WARN, Answer, Finding
from milepost_node.node import VERSION
from milepost_node.settings import Settings, read_settings
from milepost_node.store import Store
from tests.support.nodes import make_named_genesis, write_home


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(write_home(tmp_path / "node-0", make_named_genesis(4), "node-0"))


def make_answer(settings: Settings, name: str, *, offset: float = 0.0, **status: object) -> Answer:
    """A peer's answer, right but for what is given."""
    right: dict[str, Any] = {
        "network": settings.genesis.network,
        "network_id": compute_network_id(settings.genesis).hex(),
        "protocol": 1,
        "version": VERSION,
        "height": 7,
    }
    return Answer(name, f"http://{name}", {**right, **status}, offset, "")


def states(found: object) -> dict[str, str]:
    assert not isinstance(found, Finding)
    return {finding.name: finding.state for finding in found}  # type: ignore[attr-defined]


async def test_a_key_that_others_can_read_is_a_failure(settings: Settings) -> None:
    (settings.home / "node.key").chmod(0o640)
    [finding] = await doctor.examine(settings.home)
    assert finding.state == FAIL
    assert "chmod 600 node.key" in finding.detail
    assert "key-readable" in finding.detail


def test_a_genesis_without_this_key_is_a_failure(settings: Settings) -> None:
    assert doctor._examine_genesis(settings).state == OK
    members = settings.genesis.members[1:]
    assert settings.genesis.members[0].name == "node-0"
    (settings.home / "genesis.json").write_text(
        json.dumps(to_view(replace(settings.genesis, members=members)))
    )
    other = read_settings(settings.home)
    assert doctor._examine_genesis(other).state == FAIL


def test_the_database_is_looked_into_without_changing_it(settings: Settings) -> None:
    assert [finding.state for finding in doctor._examine_database(settings)] == [OK]
    network = compute_network_id(settings.genesis)
    store = Store(settings.home / "chain.db", network)
    store.close()
    before = (settings.home / "chain.db").read_bytes()
    assert states(doctor._examine_database(settings)) == {"database": OK}
    assert (settings.home / "chain.db").read_bytes() == before
    store = Store(settings.home / "chain.db", network)
    store.commit(None, [], key_in_use="signed at height 9 elsewhere")
    store.close()
    found = list(doctor._examine_database(settings))
    assert states(found) == {"database": OK, "key-in-use": FAIL}
    assert "height 9 elsewhere" in found[1].detail


def test_a_database_of_another_genesis_or_of_rubbish_is_a_failure(settings: Settings) -> None:
    Store(settings.home / "chain.db", b"\x0b" * 32).close()
    [finding] = doctor._examine_database(settings)
    assert finding.state == FAIL
    assert "0b0b0b0b" in finding.detail
    assert compute_network_id(settings.genesis).hex()[:16] in finding.detail
    (settings.home / "chain.db").write_bytes(b"rubbish" * 1_000)
    [finding] = doctor._examine_database(settings)
    assert finding.state == FAIL
    assert "fetches the chain" in finding.detail


@pytest.mark.parametrize(("free", "state"), [(10**6, FAIL), (10**9, WARN), (10**14, OK)])
def test_disk_space(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert doctor._examine_disk(settings).state == state


def test_peers_that_differ_are_told_apart(settings: Settings) -> None:
    answers = [
        make_answer(settings, "node-1", version="0.0.1"),
        make_answer(settings, "node-2", network_id="cc" * 32),
        Answer("node-3", "http://node-3", None, 0.0, "ConnectError"),
    ]
    found = {finding.name: finding for finding in doctor._examine_peers(settings, answers)}
    assert {name: finding.state for name, finding in found.items()} == {
        "peer node-1": WARN,
        "peer node-2": FAIL,
        "peer node-3": WARN,
        "quorum": FAIL,
    }
    assert "0.0.1" in found["peer node-1"].detail
    assert "has genesis cccccccccccccccc, not" in found["peer node-2"].detail
    assert "2 of 4 validators" in found["quorum"].detail
    right = [make_answer(settings, f"node-{i}") for i in (1, 2, 3)]
    assert set(states(doctor._examine_peers(settings, right)).values()) == {OK}
    assert (
        states(doctor._examine_peers(settings, [make_answer(settings, "node-1", protocol=2)]))[
            "peer node-1"
        ]
        == FAIL
    )


@pytest.mark.parametrize(
    ("offsets", "state", "words"),
    [
        ((0.4, -0.4, 500.0), OK, "within 2 s of 3"),
        ((10.0, 11.0, 12.0), WARN, "11 s behind its peers; the network allows 30 s"),
        ((-94.0, -94.2, 0.0), FAIL, "94 s ahead of its peers"),
        ((), WARN, "no peer answered"),
    ],
)
def test_the_clock_is_compared_with_the_one_in_the_middle(
    settings: Settings, offsets: tuple[float, ...], state: str, words: str
) -> None:
    answers = [
        make_answer(settings, f"node-{i + 1}", offset=offset) for i, offset in enumerate(offsets)
    ]
    [finding] = doctor._examine_clock(settings, answers)
    assert (finding.state, finding.name) == (state, "clock")
    assert words in finding.detail
