"""How transactions get in: from clients with everything checked first, from peers by the rules.

A client's submission is answered only after its whole record was validated from the blobs here.
Where the record itself is refused, none of its files stay; this happens only to members, by their
signature, and only to records that are here in full.  What anybody else says deletes nothing:
files that nobody submits in the end are swept away by their age.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final, NamedTuple

from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import TransactionsWaiting
from milepost_consensus.payloads import (
    Register,
    Submit,
    compute_registration_id,
    compute_submission_id,
)
from milepost_consensus.rules import check_tx
from milepost_consensus.transactions import Tx, compute_tx_id, decode_payload
from milepost_ml.errors import MilepostMLError
from milepost_node.blobs import BlobStore
from milepost_node.errors import InvalidRequest
from milepost_node.mempool import Mempool
from milepost_node.peers import Peers
from milepost_node.records import Records
from milepost_node.retracer import Retracer
from milepost_node.runtime import Runtime

logger = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.02
"""Transactions that come in within this time go to the peers in one batch: a batch costs as much as
handling several transactions does, and a block takes five times as long."""
LISTED_MISSING: Final = 100
"""How many missing files an answer names; the client asks for the rest itself."""
_MISSING: Final = "missing-blobs"
"""The refusal after which the client brings the rest of its files."""


class Admitted(NamedTuple):
    """A transaction that was taken in."""

    tx_id: bytes
    kept: bool
    """Whether it is a promise that must outlive the node: all that submitters send."""
    submission_id: bytes | None = None
    """For a submission: its identity on the chain."""
    registration_id: bytes | None = None
    """For a registration likewise."""


class Admission:
    """The door of one node."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        mempool: Mempool,
        peers: Peers,
        blobs: BlobStore,
        records: Records,
        retracer: Retracer,
        limit: int,
    ) -> None:
        self._runtime = runtime
        self._mempool = mempool
        self._peers = peers
        self._blobs = blobs
        self._records = records
        self._retracer = retracer
        self._limit = limit
        self._validating: dict[bytes, Submit] = {}
        """Submissions whose records are being validated, by model."""
        self._gathered: list[Tx] = []
        """Transactions on their way to the peers."""
        self.counts: Counter[str] = Counter()
        """Refused transactions of peers, by slug."""

    def get_pending(self) -> list[Submit]:
        """Submissions that are not on the chain yet."""
        return [*self._validating.values(), *self._mempool.get_submits()]

    async def admit(self, data: bytes) -> Admitted:
        """Take in a client's transaction and pass it on; raises InvalidInput or InvalidRecord."""
        tx = decode(Tx, data)
        payload = decode_payload(tx)
        network = self._runtime.state.network
        tx_id = compute_tx_id(tx, network)
        if isinstance(payload, Register):
            self.send(tx)
            registration_id = compute_registration_id(tx.sender, payload, network)
            logger.info("registration taken", extra={"registration": registration_id})
            return Admitted(tx_id, kept=True, registration_id=registration_id)
        if not isinstance(payload, Submit):
            self.send(tx)
            return Admitted(tx_id, kept=False)
        self._validate_sender(tx, payload)
        try:
            await self._validate_record(payload)
        except (InvalidInput, MilepostMLError) as error:
            if error.slug != _MISSING:
                self._forget(payload)
            raise
        self.send(tx)
        submission_id = compute_submission_id(tx.sender, payload, network)
        logger.info("submission taken", extra={"submission": submission_id})
        return Admitted(tx_id, kept=True, submission_id=submission_id)

    def receive(self, tx: Tx) -> None:
        """Take in a transaction that a peer passed on; refused ones are counted."""
        try:
            if self._mempool.add(self._runtime.state, tx):
                self._runtime.post(TransactionsWaiting())
        except InvalidInput as error:
            self.counts[error.slug] += 1

    def send(self, tx: Tx) -> None:
        """Take in a transaction, if it is new, and pass it on; raises InvalidInput."""
        if self._mempool.add(self._runtime.state, tx):
            self._runtime.post(TransactionsWaiting())
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._pass_on)
        self._gathered.append(tx)

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        for tx in gathered:
            self._peers.broadcast(tx)

    def _validate_sender(self, tx: Tx, submit: Submit) -> None:
        """Everything that can be said about a submission without its record."""
        self._mempool.validate_room(tx)
        check_tx(self._runtime.state, tx)
        if any(submit.model_digest == other.model_digest for other in self.get_pending()):
            raise InvalidRequest(
                f"model {submit.model_digest.hex()[:16]} is being submitted already",
                slug="duplicate",
            )
        if len(self._validating) >= self._limit:
            raise InvalidRequest(
                f"{self._limit} other submissions are being validated; try again later",
                slug="busy",
            )

    async def _validate_record(self, submit: Submit) -> None:
        """Everything that can be said about a record before it is on the chain."""
        self._validating[submit.model_digest] = submit
        try:
            await self._records.recall(submit.manifest)
            missing = self._records.get_missing(submit.manifest)
            if missing:
                raise InvalidRequest(
                    f"{len(missing)} files of the record are not on this node",
                    slug=_MISSING,
                    missing=[digest.hex() for digest in missing[:LISTED_MISSING]],
                )
            registrations = self._runtime.state.registrations
            await self._retracer.validate_record(submit, registrations.get(submit.registration))
        finally:
            del self._validating[submit.model_digest]

    def _forget(self, submit: Submit) -> None:
        """Delete the files of a refused record that nothing else needs."""
        keep = self._records.get_referenced(self._runtime.state, self.get_pending())
        files = set(self._records.get_files(submit.manifest)) - keep
        count = self._blobs.delete(files)
        logger.info("files of a refused submission deleted", extra={"files": count})
