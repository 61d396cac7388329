"""Nodes on processors of different generations agree on every bit of an exact run, and on which
side of its bound a run with a tolerance lies.

One machine stands for many: PyTorch, NumPy and the compiler of the kernels are each kept from the
newer vector instructions in some nodes, and nodes retrain with one thread or with two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from milepost import bundle, delivery, network
from milepost.answers import verify
from milepost.coverage import describe_assurance
from milepost.processes import LocalNetwork
from milepost_consensus.params import Params
from milepost_consensus.step_digests import compute_beyond_digest
from milepost_consensus.submissions import AGREES, UPHELD, Submission
from milepost_consensus.verdicts import FULL, INVALID, VALID, Verdict
from tests.support.models import make_task
from tests.support.training import Cheat, Loop, record

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = 7
EVERY = 2
STEPS = 10


def make_environments() -> tuple[dict[str, str], ...]:
    """What a process must find to compute as this machine does, as a Haswell, as the first x86-64.

    On other architectures all three are this machine.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return ({}, {}, {})
    shown = np.show_config(mode="dicts")
    assert isinstance(shown, dict)
    found: list[str] = shown["SIMD Extensions"]["found"]
    newest = [name for name in found if name.startswith("AVX512") or name == "X86_V4"]
    haswell = {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(newest),
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",
    }
    first = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
    }
    return ({}, haswell, first)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Seven nodes, three kinds of processor, one or two threads; the folder of their network."""
    folder = tmp_path_factory.mktemp("mixed") / "net"
    homes = network.write_network(
        folder,
        name="mixed",
        nodes=NODES,
        threads={index: 1 + index % 2 for index in range(NODES)},
        params=Params(auditors=NODES, idle_block_ms=500),
    )
    kinds = make_environments()
    environments = {home.name: kinds[index % len(kinds)] for index, home in enumerate(homes)}
    with LocalNetwork(homes, environments=environments) as running:
        running.start()
        running.wait_ready()
        for home in homes:
            status = httpx.get(f"{home.url}/v1/status", timeout=30).json()
            assert "exact/1" in status["device_classes"], home
        yield folder


def judge(net: Path, run: Path) -> tuple[Submission, Verdict]:
    """What the network makes of a run."""
    done = delivery.submit(run, network=net, wait=True)
    assert done.checked
    assert done.proof is not None
    proof = bundle.read_proof(done.proof).bundle
    return proof.submission, proof.verdict


@pytest.mark.parametrize(("profile", "task"), [("exact", "lenet"), ("rounded", "mlp")])
def test_an_honest_run_is_attested_by_every_processor(
    profile: str, task: str, net: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    try:
        run = record(tmp_path, task=task, steps=STEPS, every=EVERY, profile=profile)
    finally:
        torch.set_num_threads(threads)
    submission, verdict = judge(net, run)
    assert (verdict.outcome, verdict.assurance, verdict.profile) == (VALID, FULL, profile)
    assert not submission.accusations
    assert not verdict.overruled
    answers = {(duty.verifier, duty.interval, duty.answer) for duty in submission.duties}
    assert {answer for _, _, answer in answers} == {AGREES}
    retraced = {interval: set[bytes]() for interval in range(STEPS // EVERY)}
    for verifier, interval, _ in answers:
        retraced[interval].add(verifier)
    # Unless it is flagged, an interval goes to all of them.
    assert max(len(verifiers) for verifiers in retraced.values()) == NODES
    assert len(set.union(*retraced.values())) == NODES


def test_a_poisoned_exact_run_is_refuted_by_every_processor(net: Path, tmp_path: Path) -> None:
    def poison(step: int, loop: Loop) -> None:
        if step == 5:
            loop.batch[1] = (loop.batch[1] + 1) % 10

    threads = torch.get_num_threads()
    try:
        run = record(
            tmp_path, task="lenet", steps=STEPS, every=EVERY, profile="exact", cheat=poison, seed=4
        )
    finally:
        torch.set_num_threads(threads)
    submission, verdict = judge(net, run)
    assert (verdict.outcome, verdict.profile) == (INVALID, "exact")
    assert [(each.interval, each.step) for each in verdict.refuted] == [(2, 5)]
    (accusation,) = submission.accusations
    assert accusation.outcome == UPHELD
    # Whatever the processor, it is the same other step digest.
    assert len({answer.recomputed for answer in accusation.answers}) == 1
    assert not verdict.overruled


def record_with_tolerance(folder: Path, cheat: Cheat | None = None, seed: int = 3) -> Path:
    """On two threads, in plain float32: no node gets the same bits but by chance."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return record(
            folder,
            task=make_task("lenet", records=96),
            steps=STEPS,
            every=EVERY,
            batch_size=32,
            profile="tolerance",
            cheat=cheat,
            seed=seed,
        )
    finally:
        torch.set_num_threads(threads)


def test_a_run_with_a_tolerance_is_full_within_it(net: Path, tmp_path: Path) -> None:
    run = record_with_tolerance(tmp_path)
    submission, verdict = judge(net, run)
    assert (verdict.outcome, verdict.profile) == (VALID, "tolerance")
    assert describe_assurance(verdict) == "FULL T(1e-3)"
    assert not verdict.overruled
    distances = {duty.distance_ppb for duty in submission.duties}
    assert max(distances) > 0, "other bits on other processors"
    assert max(distances) <= verdict.tolerance_ppb
    report = verify(run / "model.safetensors", trust=net / "network.trust")
    assert (report.verdict, report.subject["assurance"]) == ("accepted", "FULL T(1e-3)")
    assert any("within the tolerance cannot be excluded" in gap for gap in report.gaps)
    assert any("drift budget 5 x 1e-3 = 0.5 %" in check.detail for check in report.checks)


def test_one_poisoned_example_is_beyond_on_every_processor(net: Path, tmp_path: Path) -> None:
    def poison(step: int, loop: Loop) -> None:
        if step == 5:
            loop.batch[1] = loop.batch[1].clone()
            loop.batch[1][0] = (loop.batch[1][0] + 1) % 10

    submission, verdict = judge(net, record_with_tolerance(tmp_path, poison, seed=4))
    assert (verdict.outcome, verdict.profile) == (INVALID, "tolerance")
    assert [(each.interval, each.step) for each in verdict.refuted] == [(2, 5)]
    assert "ends further than 1e-3 of its movement" in verdict.reason
    (accusation,) = submission.accusations
    assert accusation.outcome == UPHELD
    assert {each.recomputed for each in accusation.answers} == {
        compute_beyond_digest(accusation.leaf)
    }
    assert not verdict.overruled
