"""A validator keeps its word: whenever its process dies, whatever is left of its disk."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from milepost_consensus.events import Event, GossipDue, Message, ReceivedProposal, ReceivedVote
from milepost_consensus.keyguard import Signing, get_place
from milepost_consensus.machine import Machine
from milepost_consensus.votes import Vote
from milepost_node.chain import read_journal, replay_chain
from milepost_node.errors import StoreError
from milepost_node.store import Store
from tests.support.desk import get_messages
from tests.support.lives import (
    CRASHED,
    ME,
    Crash,
    CrashingStore,
    Life,
    Moment,
    Recording,
    Word,
    live,
    open_machine,
    record_events,
    run_process,
)

MOMENTS: Final[tuple[Moment, ...]] = ("before", "inside", "after")
FRAME_BYTES: Final = 24 + 4096
LOG_HEADER_BYTES: Final = 32
FULL: Final = 7
"""How a process ends that cannot write."""

get_recording = cache(record_events)


class Home:
    """A chain database and the processes that lived with it one after the other."""

    def __init__(self, folder: Path, recording: Recording) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "chain.db"
        self.validators = recording.validators
        self.events: Sequence[Event] = recording.told
        self.served: Sequence[Event] = recording.make_served()
        self.word = Word(self.validators)

    def live(
        self,
        crash: Crash | None = None,
        *,
        impatient: bool = False,
        served: bool = False,
        limit_bytes: int = resource.RLIM_INFINITY,
    ) -> Life:
        """One process, from opening the store until it dies or has seen all events.

        `limit_bytes` is how large its files may get.
        """
        events = [*self.events, *(self.served if served else ())]

        def work(send: object) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
            try:
                store = CrashingStore(self.file, self.validators.network, crash)
                live(store, self.validators, events, send, impatient=impatient)  # type: ignore[arg-type]
            except StoreError as error:
                os._exit(FULL if error.slug == "store-failed" else 1)
            store.close()

        ended = run_process(work)
        self.word.hear(ended.sent)
        return ended

    def open(self) -> tuple[Store, Machine]:
        store = Store(self.file, self.validators.network)
        return store, open_machine(store, self.validators)

    def check(self) -> None:
        """What was sent is remembered, and is sent again where somebody may still need it."""
        store, machine = self.open()
        relayed = get_messages(machine.handle(GossipDue()))
        mark = machine._guard.mark
        for place, message in self.word.said.items():
            assert mark is not None
            assert place <= mark, "a message was sent that the disk does not know of"
            recent = place[0] == machine.height and place[1] >= machine.round
            assert not recent or message in relayed
        self.word.hear(relayed)
        store.close()

    def finish(self) -> None:
        """A last process, whose timers run out early, goes all the way without contradiction."""
        assert self.live(impatient=True, served=True).code == 0
        store, machine = self.open()
        assert machine.state.height >= len(self.served)
        store.close()


def die_at_every_commit(folder: Path, recording: Recording, moment: Moment) -> int:
    """One home per commit; returns how many commits there are."""
    for number in range(1, 1_000):
        home = Home(folder / f"{number}", recording)
        ended = home.live(Crash(number, moment))
        if ended.code == 0:
            return number - 1
        assert ended.code == CRASHED
        home.check()
        home.finish()
    raise AssertionError("it never ends")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_crash_at_every_commit_breaks_no_word(tmp_path: Path, moment: Moment) -> None:
    assert die_at_every_commit(tmp_path, get_recording(calm_ms=1_500), moment) > 15


@pytest.mark.slow
def test_every_pair_of_crashes_breaks_no_word(tmp_path: Path) -> None:
    recording = get_recording(calm_ms=1)
    commits = die_at_every_commit(tmp_path / "single", recording, "after")
    pairs = 0
    for first in range(1, commits + 1):
        for second in range(1, commits + 1):
            home = Home(tmp_path / f"{first}-{second}", recording)
            assert home.live(Crash(first, "after")).code == CRASHED
            # The second process commits less often, or more, than the first would have.
            moment = MOMENTS[(first + second) % 3]
            pairs += home.live(Crash(second, moment), impatient=True).code == CRASHED
            home.check()
            home.finish()
    assert pairs > commits


def test_crash_at_some_commits_breaks_no_word(tmp_path: Path) -> None:
    recording = get_recording(calm_ms=1)
    for moment in MOMENTS:
        home = Home(tmp_path / moment, recording)
        assert home.live(Crash(3, moment)).code == CRASHED
        home.check()
        home.finish()


def test_a_lost_journal_is_found_out(tmp_path: Path) -> None:
    """The checks above can fail: a process that forgets contradicts itself."""
    home = Home(tmp_path, get_recording(calm_ms=1_500))
    assert home.live(Crash(6, "after")).code == CRASHED
    store, _ = home.open()
    store._write.execute("DELETE FROM journal")
    store.close()
    with pytest.raises(AssertionError):
        home.check()


# What is left of a disk ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """The files of a process that was going on, and what it had done at each commit."""

    folder: Path
    recording: Recording
    states: Sequence[tuple[int, bytes | None]]
    """Height and journal after each commit; first, before any."""
    sent: Sequence[tuple[int, Message]]
    """Own messages, with the number of commits before them."""

    @property
    def network(self) -> bytes:
        return self.recording.validators.network


def write_disk(folder: Path) -> Disk:
    recording = get_recording(calm_ms=1_500)
    folder.mkdir()
    states: list[tuple[int, bytes | None]] = [(0, None)]
    sent: list[tuple[int, Message]] = []
    public = recording.validators.signers[ME].public

    class Watched(Store):
        def commit(self, *values: object, **more: object) -> None:
            super().commit(*values, **more)  # type: ignore[arg-type]
            states.append((self.get_height(), self.get_journal()))

    def send(message: Message) -> None:
        if message.sender == public:
            sent.append((len(states) - 1, message))

    store = Watched(folder / "open.db", recording.validators.network)
    live(store, recording.validators, recording.told, send)
    for name in ("chain.db", "chain.db-wal"):
        shutil.copy(folder / name.replace("chain", "open"), folder / name)
    store.close()
    return Disk(folder, recording, states, sent)


def test_log_cut_or_changed_anywhere_leaves_a_past_that_is_noticed(tmp_path: Path) -> None:
    disk = write_disk(tmp_path / "disk")
    log = (disk.folder / "chain.db-wal").read_bytes()
    frames = range(LOG_HEADER_BYTES, len(log) + 1, FRAME_BYTES)
    assert len(frames) > 20
    assert (len(log) - LOG_HEADER_BYTES) % FRAME_BYTES == 0
    found = set[int]()
    for number, end in enumerate(frames):
        inside = end - (1, 5, 2_000, 4_100)[number % 4]
        flipped = bytearray(log)
        flipped[inside] ^= 1 << (number % 8)
        for name, rest in (("cut", log[:end]), ("torn", log[:inside]), ("flip", bytes(flipped))):
            copy = tmp_path / f"{name}-{number}"
            copy.mkdir()
            shutil.copy(disk.folder / "chain.db", copy)
            (copy / "chain.db-wal").write_bytes(rest)
            found.add(check_past(copy, disk))
    assert found == set(range(len(disk.states))), "every commit is a state of its own"


def check_past(folder: Path, disk: Disk) -> int:
    """The files hold a state that was; whatever was sent after it bars or halts the node."""
    store = Store(folder / "chain.db", disk.network)
    chain = replay_chain(store, disk.recording.validators.genesis)
    journal = read_journal(store, chain.state.height)
    moment = disk.states.index((chain.state.height, journal))
    lost = [message for commits, message in disk.sent if commits > moment]
    for message in {get_place(each): each for each in lost[:1] + lost[-1:]}.values():
        machine = open_machine(store, disk.recording.validators)
        hear(machine, message)
        assert machine.signing in (Signing.KEY_IN_USE, Signing.QUARANTINE), message
    for _, message in [item for item in disk.sent if item[0] <= moment][-2:]:
        machine = open_machine(store, disk.recording.validators)
        hear(machine, message)
        assert machine.signing is Signing.LISTENING, "what was not lost is no news"
    store.close()
    return moment


def hear(machine: Machine, message: Message) -> None:
    vote = isinstance(message, Vote)
    machine.handle(ReceivedVote(message) if vote else ReceivedProposal(message, 2**60))  # type: ignore[arg-type]


def flip_bytes(data: bytes, step: int) -> Iterator[bytes]:
    for place in range(0, len(data), step):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        yield bytes(changed)


def test_changed_bytes_of_the_file_are_noticed_or_change_nothing(tmp_path: Path) -> None:
    disk = write_disk(tmp_path / "disk")
    shutil.move(disk.folder / "open.db", tmp_path / "whole.db")  # closed: the log is folded in
    whole = (tmp_path / "whole.db").read_bytes()
    refused, slugs = 0, set[str]()
    for number, changed in enumerate(flip_bytes(whole, 97)):
        file = tmp_path / "chain.db"
        for leftover in tmp_path.glob("chain.db*"):
            leftover.unlink()
        file.write_bytes(changed)
        try:
            store = Store(file, disk.network)
            chain = replay_chain(store, disk.recording.validators.genesis)
            state = (chain.state.height, read_journal(store, chain.state.height))
            store.close()
        except StoreError as error:
            slugs.add(error.slug)
            refused += 1
        else:
            assert state == disk.states[-1], f"byte {97 * number} changed the past"
    assert refused > 20
    assert slugs <= {"store-corrupt", "wrong-network"}


# A disk that is full ------------------------------------------------------------------------------


def test_full_disk_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    """Files may grow to a limit, which each time lies a little further; then there is room."""
    recording = get_recording(calm_ms=1_500)
    ended = 0
    for number, limit in enumerate(range(40_000, 400_000, 30_000)):
        home = Home(tmp_path / f"{number}", recording)
        life = home.live(limit_bytes=limit)
        if life.code == 0:
            break
        assert life.code == FULL
        ended += 1
        home.check()
        home.finish()
    assert ended > 3
