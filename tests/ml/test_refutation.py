"""The submitter shows from its run folder who did not retrain, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost.refutations import Refuter
from milepost_consensus.answers import apply_work_refutation
from milepost_consensus.duties import Terms
from milepost_consensus.params import Params
from milepost_consensus.payloads import Submit, WorkRefutation, get_interval_steps
from milepost_consensus.step_digests import compute_gradient_commitment, compute_work_digest
from milepost_consensus.submissions import (
    AGREES,
    LAZY,
    PANEL,
    RETRACING,
    WITNESSING,
    Duty,
    Submission,
)
from milepost_consensus.views import to_view
from milepost_ml.admission import build_submit
from milepost_ml.files import GRADIENTS, FolderFiles
from milepost_ml.record_files import read_recipe, read_steps
from milepost_ml.refutation import read_gradient, refute_work
from milepost_ml.replay import retrace_interval
from tests.support.records import INTERVALS

VERIFIER = b"\x07" * 32
SENDER = b"\x05" * 32
TERMS = Terms(Params(), {}, (), 1)


def make_duty(run: Path, submit: Submit, interval: int, place: int, *, lazy: bool) -> Duty:
    """An answered duty; `place` is that of the work step in its interval."""
    step = get_interval_steps(submit, interval)[place]
    gradient = bytes(32) if lazy else read_gradient(run, submit, step)
    work = compute_work_digest(VERIFIER, gradient)
    return Duty(interval, VERIFIER, 0, step, answer=AGREES, work_digest=work)


def test_recorded_gradients_are_those_of_the_commitments_and_of_retraining(
    tiny_run: Path, tiny_submit: Submit
) -> None:
    files = FolderFiles(tiny_run)
    _, recipe = read_recipe(files)
    for interval in range(INTERVALS):
        steps = get_interval_steps(tiny_submit, interval)
        for step, row in zip(steps, read_steps(files, recipe, interval), strict=True):
            assert (
                compute_gradient_commitment(read_gradient(tiny_run, tiny_submit, step))
                == row.gradient
            )
    assert read_gradient(tiny_run, tiny_submit, tiny_submit.steps) == b""
    last = steps[-1]
    found = retrace_interval(tiny_submit, files, INTERVALS - 1, verifier=VERIFIER, work_step=last)
    assert found.work_digest == compute_work_digest(
        VERIFIER, read_gradient(tiny_run, tiny_submit, last)
    )


def test_gradients_are_no_part_of_the_record(tiny_run: Path) -> None:
    _, manifest = build_submit(tiny_run)
    assert (tiny_run / GRADIENTS).exists()
    assert GRADIENTS not in {file.name for file in manifest.files}


@pytest.mark.parametrize("place", [0, 1])
def test_false_work_is_refuted_as_the_ledger_wants_it(
    tiny_run: Path, tiny_submit: Submit, place: int
) -> None:
    duty = make_duty(tiny_run, tiny_submit, 2, place, lazy=True)
    submission = Submission(b"id", SENDER, tiny_submit, 1, phase=WITNESSING, duties=(duty,))
    refutation = refute_work(
        tiny_submit,
        FolderFiles(tiny_run),
        duty,
        submission=submission.id,
        gradient=read_gradient(tiny_run, tiny_submit, duty.work_step),
    )
    assert refutation is not None
    (after,) = apply_work_refutation(submission, refutation, TERMS, sender=SENDER).duties
    assert after.answer == LAZY


def test_true_work_is_not_refuted_nor_anything_without_the_gradient(
    tiny_run: Path, tiny_submit: Submit
) -> None:
    files = FolderFiles(tiny_run)
    honest = make_duty(tiny_run, tiny_submit, 2, 1, lazy=False)
    lazy = make_duty(tiny_run, tiny_submit, 2, 1, lazy=True)
    gradient = read_gradient(tiny_run, tiny_submit, lazy.work_step)
    refute = refute_work(tiny_submit, files, honest, submission=b"", gradient=gradient)
    assert refute is None
    assert refute_work(tiny_submit, files, lazy, submission=b"", gradient=b"\x01" * 32) is None
    missed = replace(lazy, answer="missed")
    assert refute_work(tiny_submit, files, missed, submission=b"", gradient=gradient) is None


def test_submitter_refutes_each_once_and_while_no_duty_is_open(
    tiny_run: Path, tiny_submit: Submit
) -> None:
    sent: list[WorkRefutation] = []
    refuter = Refuter(tiny_run, sent.append)
    duties = tuple(
        make_duty(tiny_run, tiny_submit, interval, 1, lazy=interval != 1) for interval in range(3)
    )
    open_ = Submission(b"\x01" * 32, SENDER, tiny_submit, 1, phase=RETRACING, duties=duties)
    assert refuter.look({"submission": to_view(open_)}) == []
    closed = replace(open_, phase=PANEL)
    assert refuter.look({"submission": to_view(closed)}) == [VERIFIER]
    assert refuter.look({"submission": to_view(closed)}) == []
    assert [each.interval for each in sent] == [0]


def test_run_of_an_earlier_recorder_refutes_nothing(
    tmp_path: Path, tiny_run: Path, tiny_submit: Submit
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / GRADIENTS).unlink()
    sent: list[WorkRefutation] = []
    duty = make_duty(tiny_run, tiny_submit, 0, 1, lazy=True)
    closed = Submission(b"\x01" * 32, SENDER, tiny_submit, 1, phase=PANEL, duties=(duty,))
    assert Refuter(run, sent.append).look({"submission": to_view(closed)}) == []
