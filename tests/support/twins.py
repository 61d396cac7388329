"""Machines that share a key and do not mind, as a liar would run them."""

from __future__ import annotations

from milepost_consensus.blocks import Block
from milepost_consensus.events import Message
from milepost_consensus.machine import Machine


class Heedless(Machine):
    """Signs on, whatever its key said elsewhere."""

    def _examine(self, *messages: Message) -> bool:
        return False

    def _examine_proposer(self, block: Block) -> None:
        pass
