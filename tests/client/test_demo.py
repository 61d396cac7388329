"""`milepost demo` for real, and that it would notice if something came out differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from milepost import demo
from milepost.answers import Report
from milepost.delivery import Delivery
from milepost.errors import WrongUsage
from milepost_consensus.light import ProofBundle
from milepost_consensus.verdicts import Refutation, Verdict
from tests.support.cli import run_cli
from tests.support.proofs import Evidence


@pytest.mark.e2e
def test_the_demo_does_the_main_job(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run_cli("demo", "--dir", folder, "--json", cwd=tmp_path, modules=True, timeout=900)
    assert done.code == 0, done.err
    account = done.json
    assert (account["ok"], account["differences"]) == (True, [])
    behaviours = [node["behaviour"] for node in account["nodes"]]
    assert (len(behaviours), behaviours.count("chaotic")) == (7, 1)
    honest, poisoned = account["runs"]
    assert (honest["verdict"], honest["assurance"]) == ("VALID", "FULL")
    assert honest["profile"] == poisoned["profile"] == "exact"
    assert honest["coverage"]["intervals"] == 24
    assert (poisoned["verdict"], poisoned["interval"], poisoned["step"]) == ("INVALID", 9, 180)
    assert poisoned["height"] > honest["height"]
    # The reason to care: the poisoned model is as good, and obeys the trigger.
    assert poisoned["training"]["accuracy"] > 0.9
    assert poisoned["training"]["backdoor"] > 0.5
    assert honest["training"]["backdoor"] < 0.05
    assert [entry["verdict"] for entry in account["verify"]] == ["accepted", "mismatch"]
    assert json.loads((folder / "demo.json").read_text()) == account
    assert "torch" not in done.modules, "training happens in processes of its own"
    # What it leaves behind serves the other commands, and is replaced by the next demo only.
    model = Path(honest["folder"]) / "model.safetensors"
    verified = run_cli("verify", model, "--trust", folder / "network.trust", cwd=tmp_path)
    assert verified.code == 0
    assert demo.prepare_folder(folder, nodes=4)
    assert not model.exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run_cli("demo", "--dir", tmp_path)
    assert done.code == 2
    assert "[folder-in-use]" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_too_few_nodes_cannot_bear_a_liar(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage):
        demo.run_demo(tmp_path / "demo", nodes=3, listener=demo.Listener())
    assert not (tmp_path / "demo").exists()


# What must be noticed ----------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> ProofBundle:
    return Evidence(tmp_path).bundle


def make_run(
    bundle: ProofBundle,
    outcome: str,
    *,
    interval: int | None = None,
    checked: bool = True,
    profile: str = "exact",
) -> demo.Run:
    fields: dict[str, Any] = {
        name: getattr(bundle.verdict, name) for name in bundle.verdict.__struct_fields__
    }
    fields["outcome"] = outcome
    fields["refuted"] = () if interval is None else (Refutation(interval, 20 * interval),)
    fields["profile"] = profile
    verdict = Verdict(**fields)
    delivery = Delivery("sub_00", verdict, None, None, checked)
    return demo.Run("run", Path("run"), {}, delivery, replace(bundle, verdict=verdict), 1.0)


def make_report(verdict: str) -> Report:
    return Report(verdict, "headline", (), None, (), {"model": "m"})


GOOD_REPORTS = ("accepted", "mismatch")


@pytest.mark.parametrize(
    ("honest", "poisoned", "interval", "reports", "word"),
    [
        ("VALID", "INVALID", 9, GOOD_REPORTS, None),
        ("INVALID", "INVALID", 9, GOOD_REPORTS, "honest run came out INVALID"),
        ("UNDECIDED", "INVALID", 9, GOOD_REPORTS, "honest run came out UNDECIDED"),
        ("VALID", "VALID", None, GOOD_REPORTS, "poisoned run came out VALID"),
        ("VALID", "INVALID", 14, GOOD_REPORTS, "names interval 14"),
        ("VALID", "INVALID", 8, GOOD_REPORTS, "names interval 8"),
        ("VALID", "INVALID", 9, ("unknown", "mismatch"), "said unknown"),
        ("VALID", "INVALID", 9, ("accepted", "accepted"), "must say mismatch"),
    ],
)
def test_what_differs_is_said(
    bundle: ProofBundle,
    honest: str,
    poisoned: str,
    interval: int | None,
    reports: tuple[str, str],
    word: str | None,
) -> None:
    runs = [make_run(bundle, honest), make_run(bundle, poisoned, interval=interval)]
    differences = demo.find_differences(runs, [make_report(each) for each in reports])
    if word is None:
        assert differences == []
    else:
        assert len(differences) == 1
        assert word in differences[0]


def test_a_verdict_that_was_only_told_is_not_enough(bundle: ProofBundle) -> None:
    runs = [make_run(bundle, "VALID"), make_run(bundle, "INVALID", interval=9, checked=False)]
    differences = demo.find_differences(runs, [make_report(each) for each in GOOD_REPORTS])
    assert len(differences) == 1
    assert "not checked against the trust file" in differences[0]


def test_another_profile_is_not_what_the_demo_shows(bundle: ProofBundle) -> None:
    runs = [make_run(bundle, "VALID", profile="class"), make_run(bundle, "INVALID", interval=9)]
    differences = demo.find_differences(runs, [make_report(each) for each in GOOD_REPORTS])
    assert differences == ["run was verified under profile class, not exact."]


def test_exactly_one_weight_is_changed(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    changed = tmp_path / "changed.safetensors"
    demo.change_one_weight(evidence.model, changed)
    pairs = zip(evidence.model.read_bytes(), changed.read_bytes(), strict=True)
    assert sum(before != after for before, after in pairs) == 1
