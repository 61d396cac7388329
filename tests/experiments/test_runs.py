"""Running experiments: the same bytes from the same manifest, resumption, wrong input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from milepost_experiments.__main__ import main
from milepost_experiments.intervals import compute_clopper_pearson
from milepost_experiments.jobs import read_job
from milepost_experiments.registry import EXPERIMENTS, get_experiment
from milepost_experiments.runner import compute_rows
from milepost_experiments.store import Store, format_toml

from milepost.cli import exits
from milepost.errors import MachineCannot, WrongUsage

FILES = (
    "cells", "config.toml", "manifest.json", "plot.pdf", "plot.svg", "report.html", "report.md",
    "results.csv",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _register_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "toy", "tests.support.toy_experiment")


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which every cell writes its key when it is computed."""
    path = tmp_path / "trace"
    path.write_text("")
    monkeypatch.setenv("TOY_TRACE", str(path))
    return path


def run(*arguments: str | Path) -> int:
    return main(["run", *map(str, arguments)])


def test_a_run_leaves_tables_figures_a_page_and_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("toy", "--out", out, "--set", "seeds=9") == exits.YES
    assert sorted(path.name for path in out.iterdir()) == list(FILES)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["experiment"] == "toy"
    assert manifest["config"]["seeds"] == 9
    assert set(manifest["outputs"]) == {"results.csv", "plot.svg", "plot.pdf"}
    assert manifest["versions"]["numpy"]
    page = (out / "report.html").read_text()
    assert "2 coins &amp; &lt;more&gt;" in page
    assert "<td>1</td>" in page
    assert "2 coins" in capsys.readouterr().out


def test_the_same_manifest_gives_the_same_bytes(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("toy", "--out", out) == exits.YES
    # Another number of processes, and nothing kept from the first run.
    assert run(out / "manifest.json", "--jobs", "2") == exits.YES
    again = tmp_path / "out-again"
    for name in ("results.csv", "plot.svg", "plot.pdf", "config.toml"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    assert len(trace.read_text().splitlines()) == 6
    assert "byte for byte" in capsys.readouterr().err


def test_a_manifest_that_promises_other_bytes_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("toy", "--out", out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["outputs"]["results.csv"] = 64 * "0"
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert run(out / "manifest.json") == exits.NO
    assert "Not what the manifest says: results.csv" in capsys.readouterr().err


def test_what_is_done_is_not_done_again_after_a_kill(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("TOY_KILL", "toss-0.5")
    assert run("toy", "--out", out) == exits.MACHINE_CANNOT
    assert "[worker-died]" in capsys.readouterr().err
    assert not (out / "results.csv").exists()
    monkeypatch.delenv("TOY_KILL")
    trace.write_text("")
    assert run("toy", "--out", out) == exits.YES
    computed = trace.read_text().split()
    assert "toss-0.5" in computed
    assert "base" not in computed
    whole = tmp_path / "whole"
    run("toy", "--out", whole)
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_cells_of_another_configuration_or_half_written_ones_are_computed_anew(
    tmp_path: Path, trace: Path
) -> None:
    out = tmp_path / "out"
    run("toy", "--out", out)
    trace.write_text("")
    run("toy", "--out", out)
    assert trace.read_text() == ""
    cell = out / "cells" / "toss-0.2.json"
    cell.write_text(cell.read_text()[:40])
    run("toy", "--out", out)
    assert trace.read_text().split() == ["toss-0.2"]
    run("toy", "--out", out, "--set", "seeds=6")
    assert len(trace.read_text().split()) == 4
    run("toy", "--out", out, "--set", "seeds=6", "--fresh")
    assert len(trace.read_text().split()) == 7


def test_the_report_is_made_again_from_the_tables(tmp_path: Path, trace: Path) -> None:
    out = tmp_path / "out"
    run("toy", "--out", out)
    kept = {name: (out / name).read_bytes() for name in ("plot.svg", "report.md", "report.html")}
    for name in kept:
        (out / name).unlink()
    trace.write_text("")
    assert main(["report", str(out)]) == exits.YES
    assert {name: (out / name).read_bytes() for name in kept} == kept
    assert trace.read_text() == ""


def test_a_toml_file_replaces_settings_of_its_preset(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('experiment = "toy"\npreset = "paper"\nseeds = 3\nchances = [1]\n')
    job = read_job(str(config), overrides=["note=plain text", "loud=false"])
    assert job.config == {
        "seeds": 3, "chances": [1.0], "label": "", "loud": False, "note": "plain text"
    }  # fmt: skip
    assert job.folder == tmp_path / "results" / "mine"


def test_the_written_configuration_can_be_run(tmp_path: Path) -> None:
    first = read_job("toy", overrides=['label="a \\"b\\" \\\\ c"'])
    store = Store(tmp_path / "out", first)
    store.open()
    assert read_job(str(tmp_path / "out" / "config.toml")).config == first.config
    assert format_toml({"a": [1, 2.5], "b": True}) == "a = [1, 2.5]\nb = true\n"


@pytest.mark.parametrize(
    ("arguments", "slug", "words"),
    [
        (["tpy"], "bad-usage", "Did you mean toy?"),
        (["toy", "--preset", "best"], "bad-usage", "it has quick, paper"),
        (["toy", "--set", "seed=3"], "bad-config", "did you mean seeds?"),
        (["toy", "--set", "seeds=many"], "bad-config", "seeds = 'many' must be a whole number"),
        (["toy", "--set", "seeds=true"], "bad-config", "must be a whole number"),
        (["toy", "--set", "chances=0.5"], "bad-config", "must be a list"),
        (["toy", "--set", "chances=[]"], "bad-config", "must be a list"),
        (["toy", "--set", "seeds=0"], "bad-config", "at least 1"),
        (["toy", "--set", "seeds"], "bad-usage", "write key=value"),
        (["toy", "--jobs", "0"], "bad-usage", "--jobs 0"),
        (["missing.toml"], "bad-usage", "There is no file missing.toml"),
        (["missing.json"], "bad-usage", "There is no file missing.json"),
        (["broken.toml"], "bad-config", "broken.toml is not TOML"),
        (["nameless.toml"], "bad-config", "must say which experiment"),
        (["binary.toml"], "bad-config", "cannot be read"),
        (["list.json"], "bad-config", "no manifest"),
        (["good.json", "--set", "seeds=1"], "bad-usage", "repeats a run as it was"),
    ],
)
def test_wrong_input_is_refused_by_name(
    arguments: list[str],
    slug: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("seeds = = 3")
    Path("nameless.toml").write_text("seeds = 3")
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    Path("list.json").write_text("[1]")
    Path("good.json").write_text("{}")
    assert run(*arguments) == exits.USAGE
    told = capsys.readouterr().err
    assert f"[{slug}]" in told
    assert words in told


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, file, foreign = tmp_path / "other", tmp_path / "file", tmp_path / "foreign"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    file.write_text("")
    monkeypatch.setitem(EXPERIMENTS, "twin", "tests.support.toy_experiment")
    run("toy", "--out", foreign)
    text = (foreign / "config.toml").read_text()
    (foreign / "config.toml").write_text(text.replace('"toy"', '"twin"'))
    for folder in (other, file, foreign):
        assert run("toy", "--out", folder) == exits.USAGE
        assert "[folder-in-use]" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_a_dead_worker_is_not_taken_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KILL", "base")
    job = read_job("toy")
    store = Store(tmp_path / "out", job)
    store.open()
    with pytest.raises(MachineCannot, match="base"):
        compute_rows(job, store)
    assert os.listdir(tmp_path / "out" / "cells") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_lets_its_cells_clean_up_and_keeps_what_is_done(
    number: signal.Signals, tmp_path: Path, trace: Path
) -> None:
    code = (
        "import sys\n"
        "from milepost_experiments.registry import EXPERIMENTS\n"
        "from milepost_experiments.__main__ import main\n"
        "EXPERIMENTS['toy'] = 'tests.support.toy_experiment'\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(code)
    command = [sys.executable, str(script), "run", "toy", "--out", str(out)]
    environment = {**os.environ, "TOY_WAIT": "toss-0.5", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        try:
            deadline = time.monotonic() + 120
            while "toss-0.5" not in trace.read_text():
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            child.send_signal(number)
            child.wait(timeout=120)
            while "cleaned" not in trace.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            told = child.stderr.read() if child.stderr is not None else ""
        finally:
            child.kill()
    if number != signal.SIGKILL:
        assert child.returncode == exits.INTERRUPTED
        assert "What is done is kept" in told
    assert "Traceback" not in told
    assert (out / "cells" / "base.json").exists()


def test_every_experiment_has_the_two_presets_with_the_same_settings() -> None:
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        assert experiment.name == name
        quick, paper = experiment.presets["quick"], experiment.presets["paper"]
        assert {k: type(v) for k, v in quick.items()} == {k: type(v) for k, v in paper.items()}


def test_unknown_experiments_are_named() -> None:
    with pytest.raises(WrongUsage, match="milepost experiment list"):
        get_experiment("zzz")


def test_clopper_pearson_covers_the_edges() -> None:
    assert compute_clopper_pearson(0, 20) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert compute_clopper_pearson(17, 20) == pytest.approx((0.6211, 0.9679), abs=1e-4)
    assert compute_clopper_pearson(20, 20) == pytest.approx((0.8316, 1.0), abs=1e-4)
