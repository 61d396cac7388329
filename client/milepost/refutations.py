"""The submitter's part in finding out who did not retrain.

Where an interval has one verifier, only the submitter can check its work digest: the recorder kept
the digests of the gradients in the run folder, where no node sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from milepost_consensus.payloads import WorkRefutation
from milepost_consensus.submissions import LAZY, PANEL, WITNESSING, Submission
from milepost_consensus.views import from_view
from milepost_ml.files import FolderFiles
from milepost_ml.refutation import read_gradient, refute_work


class Refuter:
    """Refutes false work digests of one submission; `send` brings a payload to the network."""

    def __init__(self, run: Path, send: Callable[[WorkRefutation], None]) -> None:
        self._run = run
        self._files = FolderFiles(run)
        self._send = send
        self._refuted: set[bytes] = set()

    def look(self, view: dict[str, Any]) -> list[bytes]:
        """Look through the answers that a node shows; returns verifiers that are refuted now.

        Only once no duty is open: before, a revealed gradient would help others to an answer.
        """
        if view["submission"]["phase"] not in (WITNESSING, PANEL):
            return []
        found = list(self._find_false(from_view(Submission, view["submission"])))
        for refutation in found:
            self._send(refutation)
            self._refuted.add(refutation.verifier)
        return [refutation.verifier for refutation in found]

    def _find_false(self, submission: Submission) -> Iterator[WorkRefutation]:
        """One refutation for each verifier that did not do some of its work."""
        known = {duty.verifier for duty in submission.duties if duty.answer == LAZY}
        known |= self._refuted
        for duty in submission.duties:
            gradient = read_gradient(self._run, submission.submit, duty.work_step)
            if duty.verifier in known or not gradient:
                continue
            refutation = refute_work(
                submission.submit,
                self._files,
                duty,
                submission=submission.id,
                gradient=gradient,
            )
            if refutation is not None:
                known.add(duty.verifier)
                yield refutation
