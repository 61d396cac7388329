"""One verifier at work on a ledger that a test writes by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from msgspec.structs import replace

from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.members import Genesis
from milepost_consensus.payloads import Serve
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import Payload, Tx, decode_payload
from milepost_node.answers import Answers
from milepost_node.behaviours.registry import HONEST, Behaviour
from milepost_node.blobs import BlobStore, store_bytes
from milepost_node.handshake import Identity
from milepost_node.mempool import Mempool
from milepost_node.peers import Peers
from milepost_node.records import Records
from milepost_node.verifier import Verifier
from tests.support.ledger import Ledger
from tests.support.nodes import (
    DEVICE,
    FAST,
    OTHER_DEVICE,
    ScriptedRetracer,
    Upload,
    make_named_genesis,
    make_upload,
)

UPLOAD = make_upload("run", intervals=4)
PARAMS = replace(FAST, auditors=4)
"""Everybody retraces everything."""


class Desk:
    """One verifier of four, on a ledger that the test writes by hand."""

    def __init__(
        self,
        folder: Path,
        behaviour: Behaviour = HONEST,
        genesis: Genesis | None = None,
        clique: tuple[str, ...] = (),
        upload: Upload = UPLOAD,
    ) -> None:
        self.ledger = Ledger(genesis or make_named_genesis(4, PARAMS))
        self.me = self.ledger.verifiers[0]
        self.others = self.ledger.verifiers[1:]
        self.retracer = ScriptedRetracer(
            uploads=[upload],
            device_classes=tuple(dict.fromkeys((OTHER_DEVICE, DEVICE, upload.submit.device_class))),
        )
        self.upload = upload
        self.said: list[Payload] = []
        """But for what it serves."""
        self.stated: list[Serve] = []
        network = self.ledger.state.network
        self.blobs = BlobStore(folder / "blobs", store_bytes=10**6)
        self.served: dict[str, bytes] = {}
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._serve))
        self.peers = Peers(
            self.ledger.state.genesis.members,
            own_id=self.me,
            own=Identity(self.ledger.state.genesis.network, network),
            client=client,
        )
        self.mempool = Mempool(network, limit=1_000, per_sender=1_000)
        signer = self.ledger.signers[self.me]
        assert isinstance(signer, Ed25519Signer)
        self.answers = Answers(
            signer, get_state=self.get_state, send=self.send, mempool=self.mempool
        )
        self.verifier = Verifier(
            self.me,
            behaviour=behaviour,
            clique=clique,
            get_state=self.get_state,
            answers=self.answers,
            blobs=self.blobs,
            records=Records(self.blobs, self.peers, blob_bytes=10_000),
            retracer=self.retracer,
        )

    def _serve(self, request: httpx.Request) -> httpx.Response:
        data = self.served.get(request.url.path.rpartition("/")[2])
        if data is None:
            return httpx.Response(404)
        return httpx.Response(200, stream=httpx.ByteStream(data))

    def get_state(self) -> LedgerState:
        return self.ledger.state

    def send(self, tx: Tx) -> None:
        if self.mempool.add(self.ledger.state, tx):
            payload = decode_payload(tx)
            if isinstance(payload, Serve):
                self.stated.append(payload)
            else:
                self.said.append(payload)

    def have_files(self, upload: Upload | None = None) -> None:
        for data in (upload or self.upload).files.values():
            store_bytes(self.blobs.get_path(bytes(32)).parents[1], data)

    def advance(self) -> None:
        """A block carries all that waits."""
        block = self.ledger.apply(self.mempool.take())
        self.mempool.apply_block(block, self.ledger.state)
        self.verifier.on_decided()

    def say_count(self, kind: type[Payload]) -> int:
        return sum(isinstance(payload, kind) for payload in self.said)


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[None]:
    """The verifier runs."""
    task = asyncio.create_task(desk.verifier.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def count_duties(desk: Desk, submission: bytes) -> int:
    return sum(duty.verifier == desk.me for duty in desk.ledger.get(submission).duties)
