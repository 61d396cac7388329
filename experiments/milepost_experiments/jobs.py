"""What shall run: an experiment and its configuration, from a name, a TOML file or a manifest.

    experiment = "malicious-nodes"     # a TOML file; every other key replaces one of the preset
    preset = "quick"
    seeds = 10

Everything is checked against the preset: its keys are the only ones, and the types of its values
are kept.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from milepost.errors import WrongUsage
from milepost_experiments.experiment import Config, Experiment
from milepost_experiments.registry import get_experiment

DEFAULT_PRESET: Final = "quick"
RESULTS_FOLDER: Final = "results"
MAX_CONFIG_BYTES: Final = 1024 * 1024
_NAMES: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Job(NamedTuple):
    """An experiment with everything that decides its numbers."""

    experiment: Experiment
    preset: str
    config: Config
    folder: Path
    """Where the results go unless somebody says otherwise."""
    expected: Mapping[str, str]
    """Digests of the outputs by file, where a manifest is being repeated; else empty."""


def read_job(target: str, *, preset: str | None = None, overrides: Sequence[str] = ()) -> Job:
    """The job that `target` names: an experiment, a TOML file or a manifest.

    `overrides` are texts of the form key=value.  Raises WrongUsage (slugs bad-usage, bad-config).
    """
    path = Path(target)
    changes = parse_overrides(overrides)
    if path.suffix == ".json":
        return _read_manifest(path, preset, changes)
    if path.suffix == ".toml":
        return _read_toml(path, preset, changes)
    experiment = get_experiment(target)
    folder = Path(RESULTS_FOLDER) / experiment.name
    return make_job(experiment, preset or DEFAULT_PRESET, changes, folder)


def make_job(
    experiment: Experiment,
    preset: str,
    changes: Mapping[str, Any],
    folder: Path,
    expected: Mapping[str, str] | None = None,
) -> Job:
    """A preset with changes; raises WrongUsage."""
    if preset not in experiment.presets:
        known = ", ".join(experiment.presets)
        raise WrongUsage(f"{experiment.name} has no preset {preset!r}; it has {known}.")
    config = dict(experiment.presets[preset])
    for key, value in changes.items():
        if key not in config:
            near = difflib.get_close_matches(key, config, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(config)}"
            raise _bad_config(f"{experiment.name} has no setting {key!r}; {hint}")
        config[key] = _convert(key, value, config[key])
    return Job(experiment, preset, config, folder, expected or {})


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Key and value of every key=value; a value that is no TOML is text."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not key:
            raise WrongUsage(f"--set {text}: write key=value, such as seeds=10.")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def _read_toml(path: Path, preset: str | None, changes: Mapping[str, Any]) -> Job:
    try:
        read = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise _bad_config(f"{path} is not TOML: {error}") from error
    name, chosen = read.pop("experiment", None), read.pop("preset", DEFAULT_PRESET)
    if not isinstance(name, str) or not isinstance(chosen, str):
        raise _bad_config(f'{path} must say which experiment, such as experiment = "scalability"')
    folder = path.parent / RESULTS_FOLDER / path.stem
    return make_job(get_experiment(name), preset or chosen, {**read, **changes}, folder)


def _read_manifest(path: Path, preset: str | None, changes: Mapping[str, Any]) -> Job:
    """Exactly the run that a manifest describes, into a folder of its own."""
    if preset or changes:
        raise WrongUsage(
            f"{path.name} repeats a run as it was; --preset and --set would make it another one."
        )
    try:
        read = json.loads(_read_text(path))
        name, chosen, config = read["experiment"], read["preset"], read["config"]
        outputs = read["outputs"]
        sound = isinstance(config, dict) and isinstance(outputs, dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad_config(f"{path} is no manifest of an experiment: {error!r}") from error
    if not sound or not isinstance(name, str) or not isinstance(chosen, str):
        raise _bad_config(f"{path} is no manifest of an experiment")
    folder = path.resolve().parent
    again = folder.with_name(f"{folder.name}-again")
    return make_job(get_experiment(name), chosen, config, again, outputs)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _bad_config(f"{path} is larger than {MAX_CONFIG_BYTES:,} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WrongUsage(f"There is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_config(f"{path} cannot be read: {error}") from error


def _convert(key: str, value: Any, example: Any) -> Any:
    """The value in the type of the preset's; raises WrongUsage."""
    if isinstance(example, list):
        if not isinstance(value, list) or not value:
            raise _bad_config(f"{key} = {value!r} must be a list that is not empty")
        return [_convert(key, each, example[0]) for each in value]
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise _bad_config(f"{key} = {value!r} must be {_NAMES[type(example)]}")
    return value


def _bad_config(text: str) -> WrongUsage:
    return WrongUsage(f"{text}.", slug="bad-config")
