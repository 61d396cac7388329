"""A validator's process that dies: store and machine, fed with recorded events, in a child process.

What the child sends arrives through a pipe, so that only what really left counts as sent.  The
adapter does what the runtime does, without a clock: commit first, send afterwards.
"""

from __future__ import annotations

import os
import struct
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    BlockFetched,
    Broadcast,
    Effect,
    Event,
    KeyInUse,
    Message,
    PersistDecision,
    PersistJournal,
    ReceivedProposal,
    ReceivedVote,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
)
from milepost_consensus.keyguard import get_place
from milepost_consensus.machine import Machine
from milepost_consensus.votes import Proposal, Vote, get_claim
from milepost_node.chain import read_journal, replay_chain
from milepost_node.store import Decision, Store
from tests.simulation.nodes import Node
from tests.simulation.options import Options
from tests.simulation.simulation import Simulation
from tests.support.validators import Validators

ME: Final = 1
CRASHED: Final = 9
_HEADER: Final = struct.Struct("<BI")

Moment = Literal["before", "inside", "after"]


class Recording(Simulation):
    """A schedule that keeps what node ME was told by others.

    What others repeat of its own messages is left out: in another life it may have said something
    else, and then would rightly take them for somebody else's.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.told: list[Event] = []

    def tell(self, node: Node, event: Event, trusted: bool = True) -> None:
        own = self.validators.signers[ME].public
        match event:
            case ReceivedVote(vote):
                foreign = vote.sender != own
            case ReceivedProposal(proposal):
                foreign = own not in (proposal.sender, *(vote.sender for vote in proposal.polc))
            case _:
                foreign = not isinstance(event, BlockFetched)
        if node.index == ME and foreign:
            self.told.append(event)
        super().tell(node, event, trusted)

    def make_served(self) -> list[Event]:
        """The blocks as a peer serves them, signed by the others."""
        others = [i for i in range(self.options.count) if i != ME]
        return [
            BlockFetched(
                block,
                self.validators.make_certificate(block, others, round_=certificate.round),
            )
            for block, certificate, _ in self.nodes[0].chain
        ]


def record_events(*, calm_ms: int, seed: int = 3) -> Recording:
    """A schedule of four that loses messages until `calm_ms`, and so takes several rounds."""
    recording = Recording(
        Options("crash", seed, calm_ms=calm_ms, drop_permille=250, real_signatures=True)
    )
    recording.run()
    return recording


@dataclass(frozen=True)
class Crash:
    """Where a process dies: at its commit of this number, counted from 1."""

    commit: int
    moment: Moment


class CrashingStore(Store):
    """A store whose process dies at a commit."""

    def __init__(self, file: Path, network: bytes, crash: Crash | None) -> None:
        super().__init__(file, network)
        self._crash = crash
        self._commits = 0

    def commit(
        self,
        journal: bytes | None,
        decisions: Sequence[Decision],
        *,
        key_in_use: str | None = None,
    ) -> None:
        self._commits += 1
        moment = None
        if self._crash is not None and self._commits == self._crash.commit:
            moment = self._crash.moment
        if moment == "before":
            os._exit(CRASHED)
        if moment == "inside":
            self._write.set_trace_callback(_die_at_commit)
        super().commit(journal, decisions, key_in_use=key_in_use)
        if moment == "after":
            os._exit(CRASHED)


def _die_at_commit(statement: str) -> None:
    if statement == "COMMIT":
        os._exit(CRASHED)


def open_machine(store: Store, validators: Validators) -> Machine:
    """The machine as a node opens it from its store."""
    chain = replay_chain(store, validators.genesis)
    return validators.make_machine(
        ME,
        chain.state,
        journal=read_journal(store, chain.state.height),
        certificate=chain.certificate,
        key_in_use=bool(store.get_key_in_use()),
    )


def live(
    store: Store,
    validators: Validators,
    events: Sequence[Event],
    send: Callable[[Message], None],
    *,
    impatient: bool = False,
) -> Machine:
    """Play the events; an `impatient` machine has all its timers run out before the first."""
    machine = open_machine(store, validators)

    def tell(event: Event) -> None:
        try:
            carry_out(machine.handle(event), store, send)
        except InvalidInput:
            return  # such as a block that follows another than ours

    if impatient:
        tell(Start(0))
        for kind in TimerKind:
            tell(TimeoutFired(Timer(kind, machine.height, machine.round)))
    for event in events:
        tell(event)
    return machine


def carry_out(effects: Sequence[Effect], store: Store, send: Callable[[Message], None]) -> None:
    """Commit what is to be persisted, then send."""
    journals = [effect.data for effect in effects if isinstance(effect, PersistJournal)]
    in_use = [effect.message for effect in effects if isinstance(effect, KeyInUse)]
    decisions = [
        Decision(effect.block, effect.certificate, {})
        for effect in effects
        if isinstance(effect, PersistDecision)
    ]
    if journals or in_use or decisions:
        store.commit(
            journals[-1] if journals else None,
            decisions,
            key_in_use=in_use[-1] if in_use else None,
        )
    for effect in effects:
        if isinstance(effect, Broadcast):
            send(effect.message)


@dataclass(frozen=True)
class Life:
    """How a process ended, and what it had sent by then."""

    code: int
    sent: Sequence[Message]


def run_process(work: Callable[[Callable[[Message], None]], None]) -> Life:
    """Do the work in a child process, which may send messages and die."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            work(lambda message: _write(writing, message))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Life(code, tuple(_read(data)))


def _write(pipe: int, message: Message) -> None:
    data = encode(message)
    os.write(pipe, _HEADER.pack(isinstance(message, Vote), len(data)) + data)


def _read(data: bytes) -> Iterator[Message]:
    place = 0
    while place < len(data):
        is_vote, size = _HEADER.unpack_from(data, place)
        place += _HEADER.size + size
        body = data[place - size : place]
        yield decode(Vote, body) if is_vote else decode(Proposal, body)


class Word:
    """All that one key was heard to say; it never says two things for one place."""

    def __init__(self, validators: Validators) -> None:
        self._public = validators.signers[ME].public
        self._network = validators.network
        self.said: dict[tuple[int, int, int], Message] = {}

    def hear(self, messages: Sequence[Message]) -> None:
        """Take note of messages; raises AssertionError for a contradiction."""
        for message in messages:
            if message.sender == self._public:
                first = self.said.setdefault(get_place(message), message)
                assert self._get_content(first) == self._get_content(message), "signed twice"

    def _get_content(self, message: Message) -> object:
        if isinstance(message, Vote):
            return message.block_id
        return get_claim(message, message.sender, self._network)
