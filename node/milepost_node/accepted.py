"""Submissions that this node acknowledged and no block carries yet, one file each.

An acknowledged submission is a promise: if the node ends before its peers have heard of it, nobody
else could keep it.  So it is on disk before the answer leaves, and handed in again at each start,
until a block carries it or it can no longer be carried.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import decode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import SUBMIT, Tx, compute_tx_id
from milepost_node.errors import StoreError

logger = logging.getLogger(__name__)

SUFFIX: Final = ".tx"
_PASSING: Final = frozenset({"busy", "mempool-full"})
"""Refusals that say nothing against the submission."""


class Accepted:
    """The folder of one node's open promises."""

    def __init__(self, folder: Path, network: bytes) -> None:
        self._folder = folder
        self._network = network
        self._open: dict[bytes, int] = {}
        """Until which height each transaction may be carried."""
        folder.mkdir(exist_ok=True)

    def __len__(self) -> int:
        return len(self._open)

    async def keep(self, data: bytes) -> None:
        """Return once the transaction, in canonical bytes, is on disk; raises StoreError."""
        tx = decode(Tx, data)
        tx_id = compute_tx_id(tx, self._network)
        self._open[tx_id] = tx.valid_until
        try:
            await asyncio.to_thread(self._write, tx_id, data)
        except OSError as error:
            self._open.pop(tx_id, None)
            raise StoreError(
                f"The submission could not be kept on this node's disk: {error.strerror}. It may"
                " reach the chain nevertheless: ask for it, or hand it to another node."
            ) from error
        if tx_id not in self._open:  # a block was quicker than the disk
            self._get_path(tx_id).unlink(missing_ok=True)

    def hand_in(self, send: Callable[[Tx], None]) -> None:
        """Give what is left from the last start to `send`; forget what the rules refuse."""
        for path in sorted(self._folder.iterdir()):
            if path.suffix != SUFFIX:
                path.unlink()  # written in part when the node ended: never acknowledged
                continue
            try:
                tx = decode(Tx, path.read_bytes())
                send(tx)
            except InvalidInput as error:
                if error.slug not in _PASSING:
                    logger.info("accepted submission dropped", extra={"reason": str(error)})
                    path.unlink()
                continue
            self._open[compute_tx_id(tx, self._network)] = tx.valid_until
            logger.info("accepted submission handed in again", extra={"file": path.name[:16]})

    def on_decided(self, block: Block, state: LedgerState) -> None:
        """Forget what the block carried, and what is too late for the next one."""
        if not self._open:
            return
        done = {compute_tx_id(tx, self._network) for tx in block.txs if tx.kind == SUBMIT}
        done |= {tx_id for tx_id, until in self._open.items() if until <= state.height}
        for tx_id in done & self._open.keys():
            del self._open[tx_id]
            self._get_path(tx_id).unlink(missing_ok=True)

    def _get_path(self, tx_id: bytes) -> Path:
        return self._folder / (tx_id.hex() + SUFFIX)

    def _write(self, tx_id: bytes, data: bytes) -> None:
        path = self._get_path(tx_id)
        incoming = path.with_suffix(".incoming")
        with incoming.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        incoming.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
