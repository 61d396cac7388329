"""The scalability experiment: sizes, fits of known times, and a repetition that ignores times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from milepost_experiments import scalability
from milepost_experiments.__main__ import main
from milepost_experiments.scalability import EXPERIMENT, compute_fits, make_layers, make_weights

from milepost.cli import exits
from milepost.errors import WrongUsage

pytestmark = pytest.mark.slow  # starts processes


def test_the_layers_are_the_papers_and_reach_its_size() -> None:
    weights = make_layers(200, 16, np.random.default_rng(1))
    assert sum(each.size for each in weights.values()) == 784 * 16 + 16 + 199 * 272 + 170
    assert len(weights) == 402


def test_large_models_share_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalability, "SHARED", 10_000)
    weights = make_weights(33_000, np.random.default_rng(1))
    assert sum(each.size for each in weights.values()) == 33_000
    assert len({id(each) for each in weights.values()}) == 2


def make_rows(series: str, sizes: list[int], seconds: list[float]) -> list[dict[str, str | float]]:
    return [
        {"series": series, "what": "x", "weights": n, "seconds": t}
        for n, t in zip(sizes, seconds, strict=True)
    ]


def test_fits_of_known_times() -> None:
    sizes = [10**6, 10**7, 10**8]
    layers = [10_000, 20_000, 30_000, 40_000, 60_000]
    rows = make_rows("weights", sizes, [n**1.5 for n in sizes])
    rows += make_rows("layers", layers, [5.0 + n + 2 * max(0, n - 35_000) for n in layers])
    fits = {row["fit"]: row["value"] for row in compute_fits(rows)}
    assert fits["exponent"] == pytest.approx(1.5)
    assert fits["slope beyond / before the knee"] == pytest.approx(3.0)
    assert fits["weights a second"] == pytest.approx(10**8 / 10**12)


def test_a_repetition_compares_everything_but_the_times(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("layers=[2, 3, 120, 130]", "weights=[1000000, 2000000]", "repeats=1")
    arguments = [part for text in settings for part in ("--set", text)]
    assert main(["run", "scalability", "--out", str(out), *arguments]) == exits.YES
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["measured"] == {
        "results": ["seconds", "per_weight"],
        "fits": ["value"],
    }
    assert main(["run", str(out / "manifest.json")]) == exits.YES
    again = tmp_path / "out-again"
    assert (out / "results.csv").read_bytes() != (again / "results.csv").read_bytes()
    assert "knee near 70,000" in (out / "report.md").read_text()
    # Another score is another result.
    manifest["config"]["seed"] = 4
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert main(["run", str(out / "manifest.json")]) == exits.NO


@pytest.mark.parametrize("change", [{"layers": [0]}, {"repeats": 0}, {"weights": [10]}])
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WrongUsage) as caught:
        EXPERIMENT.plan({**EXPERIMENT.presets["quick"], **change})
    assert caught.value.slug == "bad-config"
