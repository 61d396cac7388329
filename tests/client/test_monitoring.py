"""The files for Prometheus and Grafana: they read, and ask for metrics that a node has."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from milepost import compose, places
from tests.support.install import install_apart

FILES = Path(compose.__file__).parent / compose.MONITORING
DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
"""Its table is what a node's /metrics has: tests/node/test_metrics.py compares them."""
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
SELECTOR = re.compile(r"\b(milepost_\w+|process_\w+)(?:\{(\w+)=)?")
GROUPING = re.compile(r"\b(?:by|without|ignoring) \(([^)]*)\)")
OF_THE_TARGET = {"instance", "job", "le"}


def read_documented() -> dict[str, set[str]]:
    """The labels of every series that a node exposes."""
    series: dict[str, set[str]] = {}
    for name, kind, labels in ROW.findall(DOCUMENT.read_text()):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        series |= {name + suffix: set(re.findall(r"\w+", labels)) for suffix in suffixes}
    return series


def read_yaml(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(install_apart("PyYAML==6.0.3")))
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] in ("yaml", "_yaml")]:
            del sys.modules[name]


def read_dashboard() -> Any:
    return json.loads((FILES / "grafana" / "dashboards" / "milepost.json").read_text())


def read_expressions() -> list[str]:
    """What the dashboard and the rules compute."""
    shown = [target["expr"] for panel in read_dashboard()["panels"] for target in panel["targets"]]
    rules = re.split(r"- alert: \w+\n\s+expr:", (FILES / "alerts.yml").read_text())[1:]
    return [*shown, *(re.split(r"\n\s+(?:for|labels):", rule)[0] for rule in rules)]


def test_what_is_asked_for_is_in_the_metrics_of_a_node() -> None:
    documented = read_documented()
    expressions = read_expressions()
    assert len(documented) > 30
    assert len(expressions) > 20
    for expression in expressions:
        selected = SELECTOR.findall(expression)
        assert selected or expression.count("up{"), expression
        for name, label in selected:
            assert name in documented, expression
            assert not label or label in documented[name], expression
        known = OF_THE_TARGET.union(*(documented[name] for name, _ in selected))
        for listed in GROUPING.findall(expression):
            assert set(re.findall(r"\w+", listed)) <= known, expression


def test_every_alert_has_a_line_in_the_runbook() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FILES / "alerts.yml").read_text())
    rows = re.findall(r"^\| `([A-Z]\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert alerts == rows != []


def test_every_panel_has_a_place_and_the_data_source() -> None:
    dashboard = read_dashboard()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(taken) == len(panels)
    source = (FILES / "grafana" / "datasources" / "prometheus.yml").read_text()
    assert {f"uid: {panel['datasource']['uid']}" in source for panel in panels} == {True}


@pytest.mark.slow
def test_the_files_are_yaml_and_name_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_yaml(FILES / "prometheus.yml", monkeypatch)
    inside = "/etc/milepost"
    assert settings["rule_files"] == [f"{inside}/alerts.yml"]
    assert settings["scrape_configs"][0]["job_name"] == "milepost"
    (group,) = read_yaml(FILES / "alerts.yml", monkeypatch)["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) >= 5
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
    (source,) = read_yaml(FILES / "grafana" / "datasources" / "prometheus.yml", monkeypatch)[
        "datasources"
    ]
    project = compose.render_repository_project()
    assert source["url"] == "http://prometheus:9090"
    assert "\n  prometheus:\n" in project
    provider = read_yaml(FILES / "grafana" / "dashboards" / "provider.yml", monkeypatch)
    (each,) = provider["providers"]
    assert each["options"]["path"] == f"{inside}/grafana/dashboards"
    assert f"GF_PATHS_PROVISIONING: {inside}/grafana\n" in project


@pytest.mark.slow
def test_the_compose_files_confine_every_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    three = places.make_container_places(3)
    for text in (
        compose.render_repository_project(),
        compose.render_folder_project(three, user=1000, gpus=("0", "1")),
    ):
        file.write_text(text)
        project = read_yaml(file, monkeypatch)
        for name, service in project["services"].items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        monitoring = {
            name
            for name, service in project["services"].items()
            if service.get("profiles") == ["monitoring"]
        }
        assert monitoring == {"prometheus", "grafana"}
