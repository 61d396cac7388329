"""One node, put together: what exists, who knows whom, and in which order it starts and stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Final

import httpx

from milepost_consensus.beacon import Onion
from milepost_consensus.blocks import Block
from milepost_consensus.events import Message
from milepost_consensus.keyguard import Signing
from milepost_consensus.machine import Machine
from milepost_consensus.members import compute_network_id, compute_quorum
from milepost_consensus.state import LedgerState
from milepost_node.accepted import Accepted
from milepost_node.admission import Admission
from milepost_node.answers import Answers
from milepost_node.archiving import Archiving
from milepost_node.backup import is_restored
from milepost_node.behaviours.registry import HONEST
from milepost_node.blobs import BlobStore
from milepost_node.chain import read_journal, replay_chain
from milepost_node.channel import Channel, Poster
from milepost_node.chores import Chores
from milepost_node.clock import read_monotonic, read_wall_ms
from milepost_node.errors import SettingsError
from milepost_node.handshake import Identity
from milepost_node.home import check_member, lock_home
from milepost_node.mempool import Mempool
from milepost_node.metrics import Metrics
from milepost_node.peers import Peers, make_client
from milepost_node.records import Records
from milepost_node.retracer import Retracer, Workers
from milepost_node.runtime import Runtime
from milepost_node.settings import Settings
from milepost_node.store import Store
from milepost_node.sync import Sync
from milepost_node.verifier import Verifier

logger = logging.getLogger(__name__)

VERSION: Final = version("milepost")
SWEEP_SECONDS: Final = 600.0
"""Between two searches for files that no submission names."""
LISTEN_SECONDS: Final = 1.5
"""How long a node that comes back is silent: peers repeat what they know every second."""
LISTEN_STEP_SECONDS: Final = 0.02
"""Between two looks at what peers and sync know by then."""
LAG_SECONDS: Final = 0.5
"""An event loop that is this late is logged: messages and timers were late too."""
QUARANTINE_DETAIL: Final = (
    "This node has no journal of what its key signed before, so it follows and signs once it saw"
    " two heights in a row decided, from a backup two more for every validator. On an idle chain,"
    " submit something."
)

Work = Callable[[], Coroutine[None, None, None]]


class Node:
    """Everything a node consists of, opened by the constructor and running from `start` on."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: httpx.AsyncClient | None = None,
        open_poster: Callable[[str], Poster] = Channel,
        retracer: Retracer | None = None,
    ) -> None:
        """Raises NodeError if the home cannot be used or the chain on disk is damaged.

        `client` and `open_poster` stand in for the network, `retracer` for the worker processes
        in tests.
        """
        self.settings = settings
        self.network = compute_network_id(settings.genesis)
        self.identity = Identity(settings.genesis.network, self.network)
        self.failed = asyncio.Event()
        """Set when the node can no longer go on."""
        limits, home = settings.limits, settings.home
        self._own_id = settings.signer.public
        self._lock = lock_home(settings)
        self._client = client or make_client()
        self._retracer = retracer or Workers(
            home / "blobs",
            memory_bytes=limits.worker_bytes,
            limit_seconds=limits.retrace_seconds,
            threads=settings.threads,
            gpu=settings.gpu,
        )
        self._onion = Onion(settings.signer.derive, settings.signer.public)
        self._tasks: list[asyncio.Task[None]] = []
        self._senders: dict[bytes, asyncio.Task[None]] = {}
        """What writes to each peer."""
        self._running: asyncio.Task[None] | None = None
        self.store = Store(home / "chain.db", self.network)
        self.blobs = BlobStore(home / "blobs", store_bytes=limits.store_bytes)
        self.archive = settings.archive
        self.mempool = Mempool(
            self.network,
            limit=limits.mempool_transactions,
            per_sender=limits.mempool_per_sender,
        )
        self.accepted = Accepted(home / "accepted", self.network)
        self.peers = Peers(
            settings.genesis.members,
            own_id=settings.signer.public,
            own=self.identity,
            client=self._client,
            open_poster=open_poster,
        )
        self.records = Records(
            self.blobs, self.peers, blob_bytes=limits.blob_bytes, archive=self.archive
        )
        self.runtime = Runtime(
            self._open_machine(),
            store=self.store,
            mempool=self.mempool,
            network=self.peers,
            on_behind=lambda sender: self.sync.request(sender),
            on_decided=self._on_decided,
            on_equivocation=self._on_equivocation,
            key_in_use=self.store.get_key_in_use(),
            listens=True,
        )
        try:
            check_member(settings, self.runtime.state)
        except SettingsError:
            self.store.close()
            self._lock.close()
            raise
        self._known_members = self.runtime.state.members
        self.peers.update(self._known_members.values())
        self.sync = Sync(
            self.peers,
            get_height=lambda: self.runtime.state.height,
            deliver=self.runtime.deliver,
        )
        self.admission = Admission(
            self.runtime,
            mempool=self.mempool,
            peers=self.peers,
            blobs=self.blobs,
            records=self.records,
            retracer=self._retracer,
            limit=limits.admissions,
        )
        answers = Answers(
            settings.signer,
            get_state=lambda: self.runtime.state,
            send=self.admission.send,
            mempool=self.mempool,
        )
        self.chores = Chores(
            settings.signer.public,
            self._onion,
            get_state=lambda: self.runtime.state,
            answers=answers,
        )
        self.verifier = Verifier(
            settings.signer.public,
            behaviour=settings.behaviour,
            clique=settings.clique,
            get_state=lambda: self.runtime.state,
            answers=answers,
            blobs=self.blobs,
            records=self.records,
            retracer=self._retracer,
            on_retraced=lambda submit, found: self.metrics.on_retraced(submit, found),
        )
        self.metrics = Metrics(lambda: self.runtime.state)

    def _open_machine(self) -> Machine:
        chain = replay_chain(self.store, self.settings.genesis)
        standing = chain.state.standings.get(self._own_id)
        if standing is not None and standing.onion_left:
            self._onion.get_head(standing.generation)  # made now, not in the middle of a round
        journal = read_journal(self.store, chain.state.height)
        self._is_new = (
            journal is None and chain.certificate is None and not is_restored(self.settings.home)
        )
        return Machine(
            chain.state,
            self.settings.signer,
            self._onion,
            journal=journal,
            last_certificate=chain.certificate,
            key_in_use=bool(self.store.get_key_in_use()),
            restored=is_restored(self.settings.home),
        )

    def _on_decided(self, block: Block, state: LedgerState) -> None:
        if state.members is not self._known_members:
            self._known_members = state.members
            self._follow_members()
        self.metrics.on_decided(state)
        self.accepted.on_decided(block, state)
        self.chores.on_decided()
        self.verifier.on_decided()

    def _on_equivocation(self, first: Message, second: Message) -> None:
        self.metrics.on_equivocation(first)
        self.chores.on_equivocation(first, second)

    def _follow_members(self) -> None:
        """Write to those who joined, and no more to those who left."""
        came, gone = self.peers.update(self._known_members.values())
        for peer in gone:
            logger.info("peer left", extra={"peer": peer.name})
            task = self._senders.pop(peer.id, None)
            if task is not None:
                task.cancel()
        for peer in came:
            logger.info("peer joined", extra={"peer": peer.name})
            self._senders[peer.id] = self._spawn(f"peer {peer.name}", peer.run)

    def start(self) -> None:
        """Take part.  The HTTP server is started by the caller, before or after."""
        behaviour = self.settings.behaviour
        if behaviour is not HONEST:
            logger.warning(
                "THIS NODE BREAKS THE RULES ON PURPOSE: behaviour is set in its node.toml",
                extra={"behaviour": behaviour.name, "does": behaviour.summary},
            )
        state = self.runtime.state
        logger.info(
            "node started",
            extra={
                "node": self.settings.name,
                "network": self.settings.genesis.network,
                "network_id": self.network,
                "height": state.height,
                "blobs_bytes": self.blobs.used_bytes,
            },
        )
        self.accepted.hand_in(self.admission.send)
        self._running = self._spawn("runtime", self.runtime.run)
        for peer in self.peers.all:
            self._senders[peer.id] = self._spawn(f"peer {peer.name}", peer.run)
        self._tasks.append(self._spawn("sync", self.sync.run))
        self._tasks.append(self._spawn("listen", self._listen))
        self._tasks.append(self._spawn("verifier", self.verifier.run))
        self._tasks.append(self._spawn("sweep", self._sweep))
        self._tasks.append(self._spawn("lag", _watch_lag))
        if self.archive is not None:
            archiving = Archiving(
                self.archive,
                blobs=self.blobs,
                records=self.records,
                get_state=lambda: self.runtime.state,
                get_needed=self._get_needed,
            )
            self._tasks.append(self._spawn("archive", archiving.run))

    async def stop(self) -> None:
        """Finish the step at hand, end the worker even in the middle of a job, close the files."""
        tasks = [*self._tasks, *self._senders.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._running is not None:
            self.runtime.stop()
            await self._running
        await self._retracer.stop()
        await self._client.aclose()
        self.store.close()
        self._lock.close()
        logger.info("node stopped", extra={"height": self.runtime.state.height})

    def _spawn(self, name: str, work: Work) -> asyncio.Task[None]:
        return asyncio.create_task(self._guard(name, work), name=name)

    async def _guard(self, name: str, work: Work) -> None:
        """Run a part of the node; if it breaks, the node as a whole has failed."""
        try:
            await work()
        except Exception:
            logger.critical("a part of the node broke", extra={"part": name}, exc_info=True)
            self.failed.set()

    async def _listen(self) -> None:
        """Let the machine sign once the others could tell what they have of this node's key.

        Chain and journal may be older than what the key signed.  A node without either goes on
        when a quorum is there, without which nothing is decided anyway: at genesis, at once.
        """
        while self.sync.syncing:  # noqa: ASYNC110
            await asyncio.sleep(LISTEN_STEP_SECONDS)
        while self._is_new and self.count_validators() < self._quorum:  # noqa: ASYNC110
            await asyncio.sleep(LISTEN_STEP_SECONDS)
        end = read_monotonic() + LISTEN_SECONDS if self.peers.all else 0.0
        while read_monotonic() < end and (self.sync.behind or not self._is_new):  # noqa: ASYNC110
            await asyncio.sleep(LISTEN_STEP_SECONDS)
        self.runtime.start()

    async def _sweep(self) -> None:
        """Delete files that were sent here long ago and belong to no submission."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            keep = self.records.get_referenced(self.runtime.state, self.admission.get_pending())
            oldest = read_wall_ms() / 1000 - self.settings.limits.upload_seconds
            count = self.blobs.sweep(keep, before=oldest)
            if count:
                logger.info("files of no submission deleted", extra={"files": count})

    def _get_needed(self) -> set[bytes]:
        """Files that may not leave this machine."""
        state = self.runtime.state
        pending = self.admission.get_pending()
        open_submits = [each.submit for each in state.open_submissions]
        manifests = {each.submit.manifest for each in state.submissions.values()}
        return manifests | self.records.get_needed(state, [*open_submits, *pending])

    def get_status(self) -> dict[str, object]:
        """What `/v1/status` says; `device_classes` is what this machine repeats, `serves` what the
        ledger knows of it."""
        state = self.runtime.state
        standing = state.standings.get(self._own_id)
        return {
            "network": self.settings.genesis.network,
            "network_id": self.network.hex(),
            "node": self.settings.name,
            "key": self._own_id.hex(),
            "height": state.height,
            "block_id": state.last_id.hex(),
            "syncing": self.sync.syncing,
            "peers": len(self.peers.all),
            "peers_reachable": self.peers.reachable_count,
            "mempool": len(self.mempool),
            "version": VERSION,
            "protocol": self.identity.protocol,
            "retrace_queue": self.verifier.count_waiting(),
            "behaviour": self.settings.behaviour.name,
            "signing": self._get_signing(),
            "key_in_use": self.runtime.key_in_use,
            "device_classes": list(self.verifier.device_classes),
            "serves": list(standing.device_classes) if standing is not None else [],
        }

    def get_readiness(self) -> tuple[int, dict[str, object]]:
        """The HTTP status and body of `/health/ready`."""
        needed = self._quorum
        present = self.count_validators()
        if self.failed.is_set():
            return 503, {"reason": "failed"}
        if self.runtime.key_in_use:
            return 503, {"reason": "key-in-use", "detail": self.runtime.key_in_use}
        if present < needed:
            return 503, {"reason": "too-few-validators", "reachable": present, "needed": needed}
        if self.sync.syncing:
            return 206, {"reason": "syncing", "behind": self.sync.behind}
        signing = self._get_signing()
        if signing == Signing.QUARANTINE:
            return 206, {"reason": signing, "detail": QUARANTINE_DETAIL}
        if signing == Signing.LISTENING:
            return 206, {"reason": signing}
        return 200, {"reason": "ready"}

    def _get_signing(self) -> str:
        validators = self.runtime.state.validators
        is_validator = any(member.id == self._own_id for member in validators)
        return self.runtime.signing if is_validator else "no-validator"

    @property
    def _quorum(self) -> int:
        return compute_quorum(len(self.runtime.state.validators))

    def count_validators(self) -> int:
        """Validators that are there, this node included if it is one."""
        own = {self._own_id} | {peer.id for peer in self.peers.all if peer.reachable}
        return sum(member.id in own for member in self.runtime.state.validators)


async def _watch_lag() -> None:
    """Say so when something kept the event loop from running."""
    while True:
        before = read_monotonic()
        await asyncio.sleep(1.0)
        late = read_monotonic() - before - 1.0
        if late > LAG_SECONDS:
            logger.warning("event loop was late", extra={"seconds": round(late, 3)})
