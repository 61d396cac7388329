"""A proposer that wants to choose the seeds: it tries many blocks, and withholds what it dislikes.

Different times and different orders and choices of transactions all lead to one mix and to one seed
for every submission (S8), so that only saying its reveal or losing its turn is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost_consensus.beacon import compute_mix
from milepost_consensus.blocks import Block
from milepost_consensus.events import NeedTransactions
from milepost_consensus.rules import build_block
from milepost_consensus.state import LedgerState
from tests.simulation.monitor import Violation
from tests.simulation.nodes import Node

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

TRIES = 6


def grind(simulation: Simulation, node: Node, need: NeedTransactions) -> Block | None:
    """The block that suits a liar best in its turn; None where it would rather lose the turn."""
    blocks, outcomes = list[Block](), set[tuple[bytes, tuple[tuple[bytes, bytes], ...]]]()
    for _ in range(TRIES):
        block, after = _make_block(simulation, node, need)
        blocks.append(block)
        outcomes.add((block.header.mix, _get_seeds(node.state, after)))
    if len(outcomes) > 1:
        raise Violation(
            f"S8: the proposer of block {need.height} chooses among {len(outcomes)} outcomes"
        )
    header = blocks[0].header
    withheld = compute_mix(node.state.mix, b"", need.height)
    if header.reveal and withheld < header.mix:
        return None
    return min(blocks, key=simulation.validators.get_id)


def _make_block(
    simulation: Simulation, node: Node, need: NeedTransactions
) -> tuple[Block, LedgerState]:
    random = simulation.random
    txs = list(simulation.mempools.get_transactions(node))
    random.shuffle(txs)
    return build_block(
        node.state,
        round=need.round,
        proposer=simulation.validators.signers[node.identity].public,
        txs=txs[random.randrange(2) * len(txs) // 2 :],
        time_ms=node.get_clock_ms(simulation.now_ms) + random.randrange(5_000),
        reveal=simulation.validators.get_reveal(need.round, state=node.state),
    )


def _get_seeds(before: LedgerState, after: LedgerState) -> tuple[tuple[bytes, bytes], ...]:
    """The seeds of what was submitted before the block; the later ones are not known to anybody."""
    return tuple((key, after.submissions[key].seed) for key in sorted(before.submissions))
