"""Showing that a work digest is wrong, for whoever knows what the gradients were.

The record holds only digests of the gradients' content digests.  Who trained the step, as its
submitter or again as a verifier, has those content digests themselves.
"""

from __future__ import annotations

from milepost_consensus.merkle import compute_path
from milepost_consensus.payloads import Submit, WorkRefutation, get_interval_steps
from milepost_consensus.step_digests import compute_gradient_commitment, compute_work_digest
from milepost_consensus.submissions import AGREES, Duty
from milepost_ml.files import RecordFiles
from milepost_ml.record_files import compute_step_digests, read_recipe, read_steps


def refute_work(
    submit: Submit, files: RecordFiles, duty: Duty, *, submission: bytes, gradient: bytes
) -> WorkRefutation | None:
    """What shows that the answer to a duty was given without the work; None if nothing does.

    `gradient` is the content digest of the gradient of the duty's work step.
    """
    if duty.answer != AGREES or compute_work_digest(duty.verifier, gradient) == duty.work_digest:
        return None
    rows = read_steps(files, read_recipe(files)[1], duty.interval)
    place = duty.work_step - get_interval_steps(submit, duty.interval).start
    row = rows[place]
    if compute_gradient_commitment(gradient) != row.gradient:
        return None  # not the gradient that was committed: it shows nothing
    snapshot = submit.snapshots[duty.interval]
    return WorkRefutation(
        submission=submission,
        interval=duty.interval,
        verifier=duty.verifier,
        gradient=gradient,
        pre=rows[place - 1].post if place else snapshot,
        batch=row.batch,
        loss=row.loss,
        post=row.post,
        path=compute_path(compute_step_digests(snapshot, rows), place),
    )
