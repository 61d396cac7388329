"""What this node serves: the device classes that its worker computes right, stated on the ledger.

The ledger elects a verifier for what it stated.  So a node states what its known-answer tests
found when it starts, and withdraws a class as soon as a test fails, before anybody asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from milepost_consensus.members import VERIFIER
from milepost_consensus.params import MAX_DEVICE_CLASSES
from milepost_consensus.payloads import Serve
from milepost_consensus.problems import PROBLEMS
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import SERVE
from milepost_node.answers import Answers
from milepost_node.errors import KnownAnswerFailed
from milepost_node.jobs import DeviceClasses

logger = logging.getLogger(__name__)


class Service:
    """What node `me` serves, said until the ledger has it."""

    def __init__(
        self, me: bytes, *, get_state: Callable[[], LedgerState], answers: Answers
    ) -> None:
        self._me = me
        self._get_state = get_state
        self._answers = answers
        self._withdrawn: set[str] = set()
        """Classes of which a test failed in this life of the node; they are not offered again."""
        self._is_known = False
        self.device_classes: tuple[str, ...] = ()
        """What this machine repeats, the strongest first; empty until its worker has found out."""

    def offer(self, found: DeviceClasses) -> None:
        """Serve what a worker computed right."""
        if found.fault:
            logger.error(
                "ARITHMETIC IS WRONG HERE: such runs will not be verified",
                extra={
                    "slug": KnownAnswerFailed.slug,
                    "reason": found.fault,
                    "remedy": PROBLEMS[KnownAnswerFailed.slug].remedy,
                },
            )
        names = [name for name in found.names if name not in self._withdrawn]
        self.device_classes = tuple(names[:MAX_DEVICE_CLASSES])
        self._is_known = True
        self.on_decided()

    def withdraw(self, error: KnownAnswerFailed) -> None:
        """Serve a class no more, because a test of it failed."""
        logger.error(
            "KNOWN-ANSWER TEST FAILED: the task is refused and its device class withdrawn",
            extra={
                "slug": error.slug,
                "device_class": error.device_class,
                "reason": str(error),
                "remedy": PROBLEMS[error.slug].remedy,
            },
        )
        self._withdrawn.add(error.device_class)
        names = (name for name in self.device_classes if name not in self._withdrawn)
        self.device_classes = tuple(names)
        self.on_decided()

    def on_decided(self) -> None:
        """State what is served where the ledger holds something else."""
        state = self._get_state()
        member, standing = state.members.get(self._me), state.standings.get(self._me)
        if not self._is_known or member is None or standing is None:
            return
        names = tuple(sorted(self.device_classes))
        if not member.roles & VERIFIER or (
            standing.statements and standing.device_classes == names
        ):
            return
        key = (SERVE, self._me, standing.statements, 0)
        if key not in self._answers:
            logger.info("stating what is served", extra={"device_classes": list(names)})
            self._answers.put(key, Serve(standing.statements, names))
