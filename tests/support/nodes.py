"""Nodes inside one test process: homes on disk, a network in memory, a retracer that is scripted.

The record of a submission is synthetic (`tests.support.ledger`), its files are a few bytes each,
and `ScriptedRetracer` says of every interval what the test wants found.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import msgspec

from milepost_consensus.blocks import Block, Certificate, compute_block_id
from milepost_consensus.certificates import make_certificate
from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.encoding import encode
from milepost_consensus.members import Genesis
from milepost_consensus.merkle import compute_path
from milepost_consensus.params import Params
from milepost_consensus.payloads import (
    ROUNDED,
    Register,
    Submit,
    WorkRefutation,
    get_interval_steps,
)
from milepost_consensus.registrations import Registration
from milepost_consensus.state import LedgerState
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.submissions import Duty
from milepost_consensus.tolerance import TOLERANCE
from milepost_consensus.transactions import make_tx
from milepost_consensus.views import to_view
from milepost_consensus.votes import PRECOMMIT, Vote, sign_vote
from milepost_ml.files import Manifest, ManifestFile, compute_file_names, encode_manifest
from milepost_node.app import make_app
from milepost_node.archive import Archive
from milepost_node.errors import InvalidRequest, KnownAnswerFailed, PeerError
from milepost_node.jobs import DeviceClasses, Retrace, StepCommitment
from milepost_node.node import Node
from milepost_node.settings import Limits, Settings, read_settings
from tests.support.ledger import Record, make_genesis, make_record, make_signer

FAST = Params(
    min_block_ms=5,
    idle_block_ms=10,
    timeout_ms=2_000,
    hold_window=2_000,
    attest_window=2_000,
    witness_window=2,
    panel_window=2_000,
)
"""Blocks as fast as they come; windows long enough for a slow machine."""
DEVICE = "rounded/1"
"""Of the records: every machine can compute it."""
OTHER_DEVICE = "exact/1"
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Upload:
    """A synthetic record with files to upload."""

    record: Record
    files: Mapping[bytes, bytes]
    """Content by digest, the manifest among them."""

    @property
    def submit(self) -> Submit:
        return self.record.submit


def make_upload(
    name: str = "run", *, intervals: int = 4, model: str | None = None, tolerance_ppb: int = 0
) -> Upload:
    """A record whose manifest and files exist, though nothing in them was trained."""
    record = make_record(
        name,
        intervals=intervals,
        model=model,
        profile=TOLERANCE if tolerance_ppb else ROUNDED,
        tolerance_ppb=tolerance_ppb,
    )
    contents = {each: f"{name}: {each}".encode() for each in compute_file_names(intervals)}
    files = {hashlib.sha256(data).digest(): data for data in contents.values()}
    manifest = encode_manifest(
        Manifest(
            tuple(
                ManifestFile(each, hashlib.sha256(data).hexdigest(), len(data))
                for each, data in sorted(contents.items())
            )
        )
    )
    digest = hashlib.sha256(manifest).digest()
    files[digest] = manifest
    submit = msgspec.structs.replace(record.submit, manifest=digest)
    return Upload(replace(record, submit=submit), files)


@dataclass
class ScriptedRetracer:
    """Says what the test wants found in each interval, and counts what it was asked."""

    uploads: list[Upload] = field(default_factory=list)
    faults: dict[int, int] = field(default_factory=dict)
    """First step that differs, by interval."""
    refusal: InvalidRequest | None = None
    """What validating a record raises."""
    gate: asyncio.Event | None = None
    """If set, validation waits for it."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    device_classes: tuple[str, ...] = (OTHER_DEVICE, DEVICE)
    fault: str = ""
    """Why exact arithmetic is not among its device classes."""
    failing: frozenset[str] = frozenset()
    """Device classes whose known-answer test fails before a task."""
    stall: bool = False
    """Whether retracing never comes to an end."""
    stopped: bool = False

    async def start(self) -> None:
        self.asked.append(("start", 0))

    async def get_device_classes(self) -> DeviceClasses:
        return DeviceClasses(self.device_classes, self.fault)

    async def validate_record(self, submit: Submit, registration: Registration | None) -> None:
        self.asked.append(("validate", 0))
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal

    def _leaves(self, submit: Submit, interval: int) -> tuple[bytes, ...]:
        for upload in self.uploads:
            if upload.submit.manifest == submit.manifest:
                return upload.record.leaves[interval]
        raise AssertionError("a record that the test did not announce")

    def compute_truth(self, submit: Submit, interval: int, step: int) -> bytes:
        """The digest that an honest verifier gets."""
        leaf = self._leaves(submit, interval)[step - get_interval_steps(submit, interval).start]
        first = self.faults.get(interval, submit.steps)
        if step >= first and submit.profile == TOLERANCE:
            return compute_beyond_digest(leaf)
        return leaf if step < first else hashlib.sha256(b"retraced" + leaf).digest()

    def _test(self, submit: Submit) -> None:
        if submit.device_class in self.failing:
            raise KnownAnswerFailed("it is 1, here 2", device_class=submit.device_class)

    async def retrace_interval(
        self, submit: Submit, interval: int, *, verifier: bytes, work_step: int
    ) -> Retrace:
        self.asked.append(("retrace", interval))
        self._test(submit)
        if self.stall:
            await asyncio.Event().wait()
        step = self.faults.get(interval)
        work = hashlib.sha256(b"work" + verifier).digest()
        if step is None:
            noise = submit.tolerance_ppb // 100
            return Retrace(True, 0, b"", (), b"", ZERO_DIGEST, "", work, noise, 1)
        if submit.profile == TOLERANCE:
            step = get_interval_steps(submit, interval)[-1]
        committed = await self.get_step_commitment(submit, interval, step)
        return Retrace(
            agrees=False,
            step=step,
            leaf=committed.leaf,
            path=committed.path,
            recomputed=self.compute_truth(submit, interval, step),
            pre_state=ZERO_DIGEST,
            part="gradient",
            work_digest=work,
            distance_ppb=380_000_000 if submit.profile == TOLERANCE else 0,
            milliseconds=1,
        )

    async def recompute_step(
        self, submit: Submit, interval: int, step: int, *, pre_state: bytes
    ) -> bytes:
        self.asked.append(("recompute", interval))
        self._test(submit)
        return self.compute_truth(submit, interval, step)

    async def get_step_commitment(self, submit: Submit, interval: int, step: int) -> StepCommitment:
        leaves = self._leaves(submit, interval)
        place = step - get_interval_steps(submit, interval).start
        return StepCommitment(leaves[place], compute_path(leaves, place))

    async def refute_work(
        self, submission: bytes, submit: Submit, duty: Duty
    ) -> WorkRefutation | None:
        self.asked.append(("refute", duty.interval))
        return None

    def forget_all_but(self, submits: Iterable[Submit]) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True


class MemoryNetwork(httpx.AsyncBaseTransport):
    """Brings requests to the applications of nodes in this process; `down` hosts refuse."""

    def __init__(self) -> None:
        self.nodes: dict[str, httpx.ASGITransport] = {}
        self.down: set[str] = set()
        self.posts = 0
        """Batches of messages that nodes sent each other."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.posts += request.url.path == "/v1/peer/messages"
        node = self.nodes.get(request.url.host)
        if node is None or request.url.host in self.down:
            raise httpx.ConnectError("refused", request=request)
        return await node.handle_async_request(request)


class MemoryPoster:
    """What `Channel` is over TCP, over the network in memory."""

    def __init__(self, network: MemoryNetwork, url: str) -> None:
        self._client = httpx.AsyncClient(transport=network, base_url=url)

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        try:
            answer = await self._client.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise PeerError("refused") from error
        return answer.status_code

    async def close(self) -> None:
        await self._client.aclose()


def make_named_genesis(count: int, params: Params = FAST) -> Genesis:
    """Members node-0 ... at http://node-0 ..., and one submitter."""
    genesis = make_genesis(count, params=params)
    members = tuple(
        msgspec.structs.replace(m, endpoint=f"http://{m.name}") if m.name != "submitter" else m
        for m in genesis.members
    )
    return msgspec.structs.replace(genesis, members=members)


def write_home(
    home: Path, genesis: Genesis, name: str, *, port: int = 7101, malicious: str = ""
) -> Path:
    """A home folder as `milepost dev` writes it, with the key that belongs to the name."""
    home.mkdir(parents=True)
    (home / "genesis.json").write_text(json.dumps(to_view(genesis)))
    key = home / "node.key"
    key.write_text(hashlib.sha256(name.encode()).hexdigest() + "\n")
    key.chmod(0o600)
    (home / "node.toml").write_text(
        f'host = "127.0.0.1"\nport = {port}\nname = "{name}"\n'
        f'behaviour_network = "{genesis.network}"\nbehaviour = "{malicious}"\n'
    )
    return home


class Cluster:
    """Some nodes of one network, each with a home under `folder`."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        params: Params = FAST,
        malicious: Mapping[int, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.genesis = make_named_genesis(count, params)
        self.network = MemoryNetwork()
        self.nodes: dict[int, Node] = {}
        self.retracers: dict[int, ScriptedRetracer] = {}
        self.limits = limits
        self.archives: dict[int, Archive] = {}
        """Of the nodes that have one."""
        self.homes = [
            write_home(
                folder / f"node-{i}",
                self.genesis,
                f"node-{i}",
                malicious=(malicious or {}).get(i, ""),
            )
            for i in range(count)
        ]

    def open(self, index: int, retracer: ScriptedRetracer | None = None) -> Node:
        """Open a node from its home and connect it, without starting it."""
        settings: Settings = read_settings(self.homes[index])
        settings = replace(settings, archive=self.archives.get(index))
        if self.limits is not None:
            settings = replace(settings, limits=self.limits)
        self.retracers[index] = retracer or ScriptedRetracer()
        node = Node(
            settings,
            client=httpx.AsyncClient(transport=self.network),
            open_poster=lambda url: MemoryPoster(self.network, url),
            retracer=self.retracers[index],
        )
        self.nodes[index] = node
        self.network.nodes[f"node-{index}"] = httpx.ASGITransport(make_app(node))
        return node

    def start(self, *indices: int, faults: Mapping[int, int] | None = None) -> None:
        """Open and start these nodes."""
        for index in indices:
            self.open(index, ScriptedRetracer(faults=dict(faults or {}))).start()

    async def stop(self, *indices: int) -> None:
        """Stop these nodes, or all."""
        for index in indices or tuple(self.nodes):
            del self.network.nodes[f"node-{index}"]
            await self.nodes.pop(index).stop()

    def connect(self, index: int = 0) -> httpx.AsyncClient:
        """A client of one node."""
        return httpx.AsyncClient(transport=self.network, base_url=f"http://node-{index}")

    def announce(self, upload: Upload) -> None:
        """Tell all retracers what is in a record."""
        for retracer in self.retracers.values():
            retracer.uploads.append(upload)

    def sign(
        self, submit: Submit | Register, *, height: int = 0, sender: str = "submitter"
    ) -> bytes:
        """The canonical bytes of a submission's or registration's transaction."""
        node = next(iter(self.nodes.values()))
        return encode(
            make_tx(
                submit,
                signer=make_signer(sender),
                valid_until=height + 500,
                network=node.network,
            )
        )


@asynccontextmanager
async def open_cluster(
    folder: Path, count: int, *, start: bool = True, **options: object
) -> AsyncIterator[Cluster]:
    """A cluster whose nodes are all opened, and by default started; stopped at the end."""
    cluster = Cluster(folder, count, **options)  # type: ignore[arg-type]
    try:
        for index in range(count):
            cluster.open(index)
            if start:
                cluster.nodes[index].start()
        yield cluster
    finally:
        await cluster.stop()


async def put_files(client: httpx.AsyncClient, files: Mapping[bytes, bytes]) -> None:
    """Upload files."""
    for digest, data in files.items():
        answer = await client.put(f"/v1/blobs/{digest.hex()}", content=data)
        assert answer.status_code == 201, answer.text


async def wait_until(
    condition: Callable[[], object], what: str = "", seconds: float = WAIT_SECONDS
) -> None:
    """Return as soon as the condition holds; fail if it does not within a minute."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 any part of any node may make it true
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what or condition}") from None


def get_slug(response: httpx.Response) -> str:
    """The slug of a refusal, after checking that it is a problem as RFC 9457 wants it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert {"type", "title", "status", "detail", "instance"} <= problem.keys()
    assert problem["status"] == response.status_code
    kind: str = problem["type"]
    assert kind.startswith("/problems/")
    return kind.removeprefix("/problems/")


def get_heights(nodes: Iterable[Node]) -> list[int]:
    """The heights of nodes."""
    return [node.runtime.state.height for node in nodes]


def certify(block: Block, state: LedgerState) -> Certificate:
    """All validators sign a block."""
    block_id = compute_block_id(block.header, state.network)
    votes = [
        sign_vote(
            Vote(block.header.height, block.header.round, PRECOMMIT, block_id, member.id),
            make_signer(member.name),
            state.network,
        )
        for member in state.validators
    ]
    return make_certificate(votes, state.validators)
