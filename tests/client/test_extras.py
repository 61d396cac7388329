from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milepost import extras
from milepost.cli import main as cli
from milepost.errors import MachineCannot
from milepost.network import write_network
from milepost_ml.snapshots import write_tensors
from tests.support.cli import run_cli
from tests.support.proofs import Evidence, make_tensors

DECLARED = [
    "httpx>=0.27",
    "numpy>=2.0; extra == 'ml'",
    'torch==2.13.0; extra == "ml"',
    "milepost[ml]; extra == 'node'",
    "fastapi>=0.115; extra == 'node'",
    "milepost[node]; extra == 'demo'",
    "mlxtend==0.25.0; extra == 'demo'",
]
INSTALLED = {"numpy": "2.4.6", "torch": "2.13.0+cpu", "fastapi": "0.115", "mlxtend": "0.25.0"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that the environment pretends to have; tests may change them."""
    versions = dict(INSTALLED)

    def get_version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: DECLARED)
    monkeypatch.setattr(importlib.metadata, "version", get_version)
    return versions


def test_extras_that_name_extras_are_resolved(installed: dict[str, str]) -> None:
    assert extras.get_requirements("ml") == ("numpy>=2.0", "torch==2.13.0")
    assert extras.get_requirements("demo") == (
        "fastapi>=0.115", "mlxtend==0.25.0", "numpy>=2.0", "torch==2.13.0",
    )  # fmt: skip
    assert extras.get_requirements("nothing") == ()


def test_the_distribution_s_own_metadata_is_understood() -> None:
    names = {line.split("=")[0].split(">")[0] for line in extras.get_requirements("demo")}
    assert {"torch", "numpy", "safetensors", "fastapi", "uvicorn", "mlxtend"} <= names
    assert extras.find_missing("demo") == ()


@pytest.mark.parametrize(
    ("name", "version", "missing"),
    [
        ("numpy", "2.4.6", ()),
        ("numpy", "10.0", ()),
        ("numpy", "1.26.4", ("numpy>=2.0",)),
        ("torch", "2.13.0", ()),
        ("torch", "2.12.1", ("torch==2.13.0",)),
        ("torch", "2.13.0.1", ("torch==2.13.0",)),
        ("mlxtend", None, ("mlxtend==0.25.0",)),
    ],
)
def test_what_is_missing_or_of_the_wrong_version(
    installed: dict[str, str], name: str, version: str | None, missing: tuple[str, ...]
) -> None:
    if version is None:
        del installed[name]
    else:
        installed[name] = version
    assert extras.find_missing("demo") == missing


def test_the_install_command_names_exactly_the_requirements(installed: dict[str, str]) -> None:
    command = extras.get_install_command("demo")
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-4:] == list(extras.get_requirements("demo"))
    assert "'numpy>=2.0'" in extras.get_install_line("demo"), "a shell must not redirect"


def fake_pip(
    installed: dict[str, str], *, works: bool, heard: list[list[str]]
) -> Callable[..., Any]:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        heard.append(command)
        if works:
            installed.update(INSTALLED)
        return subprocess.CompletedProcess(command, 0 if works else 1)

    return run


def test_a_failed_install_says_what_to_type(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del installed["torch"]
    monkeypatch.setattr(subprocess, "run", fake_pip(installed, works=False, heard=[]))
    with pytest.raises(MachineCannot) as caught:
        extras.install("demo")
    assert "torch==2.13.0" in str(caught.value)
    assert caught.value.slug == "missing-extra"


def test_an_install_that_worked_is_quiet(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del installed["torch"]
    heard: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", fake_pip(installed, works=True, heard=heard))
    extras.install("demo")
    assert len(heard) == 1
    assert heard[0][:4] == [sys.executable, "-m", "pip", "install"]


def test_the_demo_without_installing_refuses_and_says_the_command(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del installed["mlxtend"]
    monkeypatch.setattr(sys, "argv", ["milepost", "demo", "--no-install"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 6
    assert printed.out == ""
    assert "mlxtend==0.25.0" in printed.err
    assert "-m pip install" in printed.err
    assert "[missing-extra]" in printed.err


def test_nodes_without_their_packages_are_refused(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del installed["fastapi"]
    monkeypatch.setattr(sys, "argv", ["milepost", "dev"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 6
    assert "pip install 'milepost[node]'" in capsys.readouterr().err


def test_a_command_without_its_packages_says_which_and_how(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('No numpy', name='numpy')")
    write_network(tmp_path / "net", name="n", nodes=1)
    arguments = ("submit", tmp_path / "run", "--network", tmp_path / "net", "--json")
    done = run_cli(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.json["problem"]["slug"]) == (6, "missing-extra")
    assert "This needs numpy" in done.err


def test_verify_needs_no_numpy(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('No numpy', name='numpy')")
    arguments = ("verify", evidence.model, "--trust", evidence.trust)
    assert run_cli(*arguments, env={"PYTHONPATH": str(tmp_path)}).code == 0
    write_tensors(evidence.model, make_tensors(seed=1))
    done = run_cli(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 1
    assert "the proof says b3:" in done.out


def test_importing_the_sdk_loads_nothing_heavy() -> None:
    script = "import milepost, sys; print(sorted(sys.modules)); milepost.verify; milepost.submit"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    for heavy in ("numpy", "torch", "httpx", "typer", "msgspec", "cryptography"):
        assert f"'{heavy}'" not in done.stdout


def test_a_verb_that_does_not_exist_is_an_attribute_error() -> None:
    import milepost

    assert set(dir(milepost)) >= {"Run", "verify", "submit"}
    with pytest.raises(AttributeError):
        milepost.sumbit  # noqa: B018
