"""Machines that share a key and do not mind, as a liar would run them."""

from __future__ import annotations

from milepost_consensus.beacon import Onion
from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.crypto import Signer
from milepost_consensus.events import Message
from milepost_consensus.keywatch import KeyWatch
from milepost_consensus.machine import Machine
from milepost_consensus.state import LedgerState


class Heedless(Machine):
    """Signs on, whatever its key said elsewhere."""

    def __init__(
        self,
        state: LedgerState,
        signer: Signer,
        onion: Onion | None = None,
        *,
        journal: bytes | None = None,
        last_certificate: Certificate | None = None,
        key_in_use: bool = False,
        restored: bool = False,
    ) -> None:
        super().__init__(
            *(state, signer, onion),
            journal=journal,
            last_certificate=last_certificate,
            key_in_use=key_in_use,
            restored=restored,
        )
        self._watch = _Blind(
            *(signer.public, state.network, self._guard, self._inbox, self._outbox)
        )


class _Blind(KeyWatch):
    def examine(self, *messages: Message, height: int, round_: int) -> bool:
        return False

    def examine_proposer(self, block: Block) -> None:
        pass
