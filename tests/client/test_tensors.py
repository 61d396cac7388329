"""`milepost show RUN --tensors K` on a run that was really recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost_ml.weight_analysis import analyse_interval
from tests.support.cli import run_cli
from tests.support.records import tiny_run

pytestmark = pytest.mark.slow  # starts processes

__all__ = ["tiny_run"]


def test_parameters_are_listed_with_their_shares(tiny_run: Path) -> None:
    expected = analyse_interval(tiny_run, 1)
    view = run_cli("show", tiny_run, "--tensors", "1", "--json").json
    assert (view["interval"], view["change_score"]) == (1, expected.score)
    assert view["absolute"] == expected.distances.absolute
    assert [each["name"] for each in view["tensors"]] == list(expected.tensors)
    for each in view["tensors"]:
        change = expected.tensors[each["name"]]
        assert each["share"] == change.share
        assert each["change_score"] == change.score
        assert each["cosine"] == change.distances.cosine
    lines = run_cli("show", tiny_run, "--tensors", "1").out.splitlines()
    largest = max(expected.tensors, key=lambda name: expected.tensors[name].share)
    assert lines[2].split()[0] == largest
    assert f"{100 * expected.tensors[largest].share:.1f} %" in lines[2]


@pytest.mark.parametrize("interval", ["-1", "1000"])
def test_an_interval_that_is_not_there_is_refused(tiny_run: Path, interval: str) -> None:
    done = run_cli("show", tiny_run, "--tensors", interval)
    assert done.code != 0
    assert "counted from 0" in done.err


def test_showing_a_run_loads_no_compiler(tiny_run: Path) -> None:
    done = run_cli("show", tiny_run, modules=True)
    assert not {"numba", "numpy", "torch"} & set(done.modules)
