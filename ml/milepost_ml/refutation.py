"""Showing that a work digest is wrong, for whoever knows what the gradients were.

The record holds only digests of the gradients' content digests.  Who trained the step, as its
submitter or again as a verifier, has those content digests themselves.  The recorder keeps them
beside the record, in a file that is never submitted: with one verifier an interval, nobody but the
submitter can tell whether it did its work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from milepost_consensus.merkle import compute_path
from milepost_consensus.payloads import Submit, WorkRefutation, get_stride_count, get_stride_place
from milepost_consensus.step_digests import compute_gradient_commitment, compute_work_digest
from milepost_consensus.submissions import AGREES, Duty
from milepost_ml.files import GRADIENTS, RecordFiles
from milepost_ml.record_files import compute_step_digests, read_recipe, read_steps

GRADIENT_BYTES: Final = 32
"""One step digest's in the file of gradients."""


def read_gradient(run: Path, submit: Submit, step: int) -> bytes:
    """The content digest of the gradient with which the stride of a step ends, as it was recorded.

    Empty if it was not kept.
    """
    interval = step // submit.steps_per_interval
    place = interval * get_stride_count(submit, 0) + get_stride_place(submit, interval, step)
    try:
        with (run / GRADIENTS).open("rb") as file:
            file.seek(place * GRADIENT_BYTES)
            data = file.read(GRADIENT_BYTES)
    except FileNotFoundError:
        return b""
    return data if len(data) == GRADIENT_BYTES else b""


def refute_work(
    submit: Submit, files: RecordFiles, duty: Duty, *, submission: bytes, gradient: bytes
) -> WorkRefutation | None:
    """What shows that the answer to a duty was given without the work; None if nothing does.

    `gradient` is the content digest of the gradient of the duty's work step.
    """
    if duty.answer != AGREES or compute_work_digest(duty.verifier, gradient) == duty.work_digest:
        return None
    rows = read_steps(files, read_recipe(files)[1], duty.interval)
    place = get_stride_place(submit, duty.interval, duty.work_step)
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
