"""A steady stream of small transactions into a network of node processes.

They are Attests to synthetic submissions by verifiers whose keys are known here: the ledger's most
frequent transaction, for which nothing has to be retrained.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import httpx

from milepost_consensus.blocks import Block
from milepost_consensus.crypto import compute_digest
from milepost_consensus.encoding import decode, encode
from milepost_consensus.payloads import Attest, Hold, compute_submission_id
from milepost_consensus.submissions import RETRACING, Submission
from milepost_consensus.transactions import Tx, compute_tx_id, make_tx
from milepost_consensus.views import from_view
from milepost_node.envelopes import encode_batch, make_envelope
from tests.faults.network import FaultyNetwork, poll
from tests.support.ledger import make_record, make_signer

SUBMISSIONS: Final = 8
INTERVALS: Final = 50
VALID_FOR: Final = 990
PEER_MESSAGES: Final = "/v1/peer/messages"
SECONDS: Final = 30.0


class Stream:
    """Open duties, answered one at a time; all submissions are on the chain and elected."""

    def __init__(self, network: FaultyNetwork) -> None:
        self._network = network
        self._http = httpx.Client(timeout=SECONDS, trust_env=False)
        self._signers = {m.id: make_signer(m.name) for m in network.genesis.members}
        submitter = make_signer("submitter")
        submits = [make_record(f"run {i}", intervals=INTERVALS).submit for i in range(SUBMISSIONS)]
        ids = [compute_submission_id(submitter.public, each, network.id) for each in submits]
        # As peers pass them on: a client would have to bring records that hold what they say.
        for submit in submits:
            self._pass_on([make_tx(submit, signer=submitter, valid_until=900, network=network.id)])
        poll(lambda: len(self._read_all()) == SUBMISSIONS, "submissions on the chain")
        holders = [self._signers[m.id] for m in network.genesis.members if m.endpoint]
        self._pass_on(
            make_tx(Hold(each), signer=holder, valid_until=900, network=network.id)
            for each in ids
            for holder in holders
        )
        poll(lambda: all(s.phase == RETRACING for s in self._read_all()), "all elected")
        self._duties = [(s.id, duty) for s in self._read_all() for duty in s.duties]

    def _pass_on(self, txs: Iterable[Tx]) -> None:
        body = encode_batch([make_envelope(tx) for tx in txs])
        for url in self._network.urls:
            done = self._network.lab.run(self._http.post, url + PEER_MESSAGES, content=body)
            assert done.result().is_success

    def _read_all(self) -> list[Submission]:
        answer = self._network.request(0, "/v1/submissions?limit=100")
        assert answer is not None
        views = answer.json()["submissions"]
        return [from_view(Submission, view["submission"]) for view in views]

    def post(self, index: int) -> tuple[bytes, float]:
        """Hand the next answer to a node; returns its id and when it was posted, in ms since the
        epoch."""
        submission, duty = self._duties.pop()
        attest = Attest(
            submission=submission,
            interval=duty.interval,
            agrees=1,
            work_step=duty.work_step,
            work_digest=compute_digest("work", duty.verifier),
            distance_ppb=0,
        )
        tx = make_tx(
            attest,
            signer=self._signers[duty.verifier],
            valid_until=self._network.get_height(index) + VALID_FOR,
            network=self._network.id,
        )
        url = f"{self._network.urls[index]}/v1/transactions"
        begin = time.time() * 1_000
        answer = self._network.lab.run(self._http.post, url, content=encode(tx)).result()
        assert answer.status_code == 202, answer.text
        return compute_tx_id(tx, self._network.id), begin


def read_heights(network: FaultyNetwork, index: int) -> dict[bytes, int]:
    """The height of every transaction on a node's chain."""
    return {
        compute_tx_id(tx, network.id): block.header.height
        for block in _decode_chain(network, index)
        for tx in block.txs
    }


def _decode_chain(network: FaultyNetwork, index: int) -> Iterator[Block]:
    for data, _ in network.fetch_chain(index):
        yield decode(Block, data)


def read_events(
    network: FaultyNetwork, index: int, event: str
) -> list[tuple[float, dict[str, Any]]]:
    """What a node logged under a name, each with its time in ms since the epoch."""
    lines = network.read_log(index).splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [
        (datetime.fromisoformat(entry["time"]).timestamp() * 1_000, entry)
        for entry in entries
        if entry["event"] == event
    ]
