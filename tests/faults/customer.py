"""The people around a network: they submit, answer for the verifiers, read and write down.

Everything goes through the HTTP interface of whichever node is there.  `Customer.submit` is called
by scenarios; in the background every node is read all the time, open duties are answered.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final

import httpx

from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import encode
from milepost_consensus.light import load_proof, open_envelope
from milepost_consensus.payloads import Attest, compute_submission_id
from milepost_consensus.submissions import Submission
from milepost_consensus.transactions import make_tx
from milepost_consensus.views import from_view
from milepost_ml.admission import build_submit
from milepost_ml.files import encode_manifest
from tests.faults.history import ACKNOWLEDGED, REFUSED, UNKNOWN, History
from tests.faults.network import FaultyNetwork, poll
from tests.support.ledger import make_signer

VALID_FOR: Final = 900
PAUSE_SECONDS: Final = 0.1
"""Between two rounds of reading."""
SUBMIT_SECONDS: Final = 30.0
"""Validating a record takes a node a second, more on a busy machine."""
SUBMITTER: Final = "submitter"


class Customer:
    """Use as a context manager: it reads until the end, and fails there if what it read was bad."""

    def __init__(self, network: FaultyNetwork, runs: Sequence[Path]) -> None:
        self.history = History(network.genesis)
        self._network = network
        self._runs = list(reversed(runs))
        self._http = httpx.Client(timeout=SUBMIT_SECONDS, trust_env=False)
        self._signers = {m.id: make_signer(m.name) for m in network.genesis.members}
        self._stopping = threading.Event()
        self._proven: set[tuple[int, bytes]] = set()
        self._reading: Future[None] | None = None

    def __enter__(self) -> Customer:
        self._reading = self._network.lab.run(self._read_all)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._http.close()

    def stop(self) -> None:
        """Stop reading; raises what went wrong while it did."""
        self._stopping.set()
        if self._reading is not None:
            self._reading.result()

    # Submitting -----------------------------------------------------------------------------------

    def submit(self, index: int) -> bytes:
        """Hand the next record to a node, which acknowledges it; returns the submission."""
        submission, outcome = self.try_submit(index)
        assert outcome == ACKNOWLEDGED, self._network.read_log(index)[-2_000:]
        return submission

    def try_submit(self, index: int) -> tuple[bytes, str]:
        """The same, whatever comes of it."""
        return self._network.lab.run(self._submit, index, self._runs.pop()).result()

    def submit_and_see(self, index: int, *readers: int) -> None:
        """The same, and wait until all these nodes show the submission on their chains."""
        submission = self.submit(index)
        for reader in readers or (index,):
            poll(
                partial(self._network.request, reader, f"/v1/submissions/{submission.hex()}"),
                f"the submission to node {index} on the chain of node {reader}",
            )

    def _submit(self, index: int, run: Path) -> tuple[bytes, str]:
        submit, manifest = build_submit(run)
        network = self._network.id
        signer = make_signer(SUBMITTER)
        url = self._network.urls[index]
        contents = {file.digest: (run / file.name).read_bytes() for file in manifest.files}
        contents[submit.manifest.hex()] = encode_manifest(manifest)
        submission = compute_submission_id(signer.public, submit, network)
        try:
            for digest, data in contents.items():
                self._http.put(f"{url}/v1/blobs/{digest}", content=data)
            height = self._http.get(f"{url}/v1/status").json()["height"]
            tx = make_tx(submit, signer=signer, valid_until=height + VALID_FOR, network=network)
            answer = self._http.post(f"{url}/v1/transactions", content=encode(tx))
            outcome = ACKNOWLEDGED if answer.status_code == 202 else REFUSED
        except httpx.HTTPError:
            outcome = UNKNOWN
        self.history.submits.append((submission, outcome))
        return submission, outcome

    # Reading and answering ------------------------------------------------------------------------

    def _read_all(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            for index in self._network.all:
                self._read(index)

    def _read(self, index: int) -> None:
        """Everything that one node shows; a node that is not there shows nothing."""
        status = self._network.request_inside(index, "/v1/status", seconds=1.0)
        if status is None:
            return
        shown = status.json()
        self.history.add_status(index, shown["height"], bytes.fromhex(shown["block_id"]))
        listed = self._network.request_inside(index, "/v1/submissions?limit=100", seconds=1.0)
        if listed is None:
            return
        views = listed.json()["submissions"]
        decided = {bytes.fromhex(v["submission"]["id"]) for v in views if v["verdict"]}
        for node, submission in self._proven:
            assert node != index or submission in decided, f"node {index} lost a verdict"
        for submission in sorted(decided):
            self._read_proof(index, submission)
        for view in views:
            if not view["verdict"]:
                self._answer(index, from_view(Submission, view["submission"]))

    def _read_proof(self, index: int, submission: bytes) -> None:
        if (index, submission) in self._proven:
            return
        path = f"/v1/submissions/{submission.hex()}/proof"
        answer = self._network.request_inside(index, path, seconds=1.0)
        if answer is not None:
            assert answer.status_code == 200, answer.text
            self.history.add_proof(index, open_envelope(load_proof(answer.json())))
            self._proven.add((index, submission))

    def _answer(self, index: int, submission: Submission) -> None:
        """Attest whatever is open, as often as it is seen to be open."""
        for duty in submission.duties:
            if duty.answer:
                continue
            attest = Attest(
                submission=submission.id,
                interval=duty.interval,
                agrees=1,
                work_step=duty.work_step,
                work_digest=compute_digest("work", duty.verifier),
                distance_ppb=0,
            )
            height = self.history.heights[index][-1][0]
            tx = make_tx(
                attest,
                signer=self._signers[duty.verifier],
                # The same bytes for a while, so that a repetition is one.
                valid_until=height - height % 100 + VALID_FOR,
                network=self._network.id,
            )
            self._network.post_inside(index, "/v1/transactions", encode(tx), seconds=1.0)

    # The end --------------------------------------------------------------------------------------

    def lose(self, index: int) -> None:
        """A node's disk is lost: nobody holds it to what it showed."""
        self.history.add_loss(index)
        self._proven = {(node, each) for node, each in self._proven if node != index}

    def settle(self) -> None:
        """Everything is whole again: wait until the ledger has done all it owes, then check it."""
        network = self._network
        network.wait_ready()
        # Idle chains do not grow: once all is decided, the heights stay equal.
        poll(self._is_settled, "all nodes agree that every acknowledged submission is decided")
        self.stop()
        self.history.check([network.fetch_chain(index) for index in network.all])

    def _is_settled(self) -> bool:
        assert self._reading is not None
        if self._reading.done():
            self._reading.result()
        shown = [self._network.get_status(index) for index in self._network.all]
        points = {(status.get("height"), status.get("mempool")) for status in shown}
        wanted = {(i, each) for i in self._network.all for each in self.history.acknowledged}
        return len(points) == 1 and points.pop()[1] == 0 and wanted <= self._proven
