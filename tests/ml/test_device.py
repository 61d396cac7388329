"""The device class names what the bits depend on."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest
import torch

from milepost_consensus.encoding import validate_text
from milepost_ml.device import (
    compute_device_class,
    compute_known_answer,
    configure_torch,
    describe_environment,
)


def test_the_class_names_build_instructions_threads_and_known_answer() -> None:
    text = compute_device_class()
    version = torch.__version__.split("+")[0]
    pattern = rf"torch-{re.escape(version)}/{platform.machine()}/\S+/threads-1/kat-[0-9a-f]{{16}}"
    assert re.fullmatch(pattern, text)
    validate_text("device_class", text)
    assert describe_environment(text)["device_class"] == text


def test_the_known_answer_is_known_and_leaves_the_generator_alone() -> None:
    configure_torch()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = compute_known_answer()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert compute_known_answer() == first
    assert compute_device_class().endswith(first.hex()[:16])


@pytest.mark.slow
def test_another_instruction_set_is_another_class() -> None:
    """The answer must notice what changes bits: here, PyTorch's kernels without vector units."""
    code = "from milepost_ml.device import compute_device_class; print(compute_device_class())"

    def ask(**environment: str) -> str:
        import os

        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    plain = ask()
    assert plain == compute_device_class()
    assert ask(OMP_NUM_THREADS="4") == plain
    capped = ask(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41")
    assert capped.rsplit("/", 1)[1] != plain.rsplit("/", 1)[1]
