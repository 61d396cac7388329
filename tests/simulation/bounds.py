"""How long an honest network may take once the faults have stopped (L1), derived, not measured.

After the stabilisation time every message between honest nodes arrives within D (`calm_delay_ms`),
each node relays within every G (`gossip_ms`), polls one peer after the other every P, and phases
last T(r) = min(t0 + r * delta, cap).

* Height.  A node that lacks blocks has asked every peer after (peers) * P and has the answer 2D
  later:  C = peers * P + 2D.
* Round.  Whoever is in the highest round R of an honest node came there by 2f+1 precommits of
  R - 1 or by f+1 that spoke in R.  It relays those within G, they arrive within D, and by rule 55
  and rule 65 all others follow within one more phase:  S = 2 (G + D) + cap.
* A round that comes to nothing takes three phases, each begun by votes that are relayed:
  Z = 3 cap + 2 (G + D).
* Rounds.  Phases shorter than 2 (G + D) may be too short for relays: at most
  s = ceil((2 (G + D) - t0) / delta) rounds, 0 or more.  Then, of n + f + 1 rounds in a row, the
  liars have their f turns at least once and each honest node has one after them; the one with the
  highest valid value proposes it with its prevotes, rule 28 frees everybody, it is decided.

So from any state a height takes at most  B = S + (n + f + 1 + s) Z + min_block, and k heights at
most  C + k B.
"""

from __future__ import annotations

from milepost_consensus.members import compute_fault_limit
from tests.simulation.options import Options


def compute_height_bound_ms(options: Options) -> int:
    """B, the longest that one height may take."""
    exchange_ms = options.gossip_ms + options.calm_delay_ms
    settle_ms = 2 * exchange_ms + options.timeout_cap_ms
    round_ms = 3 * options.timeout_cap_ms + 2 * exchange_ms
    lacking_ms = max(0, 2 * exchange_ms - options.timeout_ms)
    short = -(-lacking_ms // max(1, options.timeout_step_ms))
    validators = options.count + options.candidates
    rounds = validators + compute_fault_limit(validators) + 1 + short
    return settle_ms + rounds * round_ms + options.min_block_ms


def compute_bound_ms(options: Options, heights: int) -> int:
    """C + k B, the longest that k heights may take from any state."""
    peers = options.count + options.candidates + len(options.twins) - 1
    catch_up_ms = peers * options.poll_ms + 2 * options.calm_delay_ms
    return catch_up_ms + heights * compute_height_bound_ms(options)
