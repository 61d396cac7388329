"""Which experiments there are.  A module is imported when its experiment is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Final

from milepost.errors import WrongUsage
from milepost_experiments.experiment import Experiment

EXPERIMENTS: Final[dict[str, str]] = {
    "malicious-nodes": "milepost_experiments.malicious_nodes",
    "scalability": "milepost_experiments.scalability",
    "verification-cost": "milepost_experiments.verification_cost",
    "weight-analysis": "milepost_experiments.weight_analysis",
}
"""The module of each experiment, which holds it as `EXPERIMENT`."""


def get_experiment(name: str) -> Experiment:
    """The experiment of that name; raises WrongUsage if there is none."""
    module = EXPERIMENTS.get(name)
    if module is None:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise WrongUsage(
            f"There is no experiment {name!r}.{hint} All of them: milepost experiment list"
        )
    return load_experiment(module)


def load_experiment(module: str) -> Experiment:
    """The experiment that a module holds."""
    experiment: Experiment = importlib.import_module(module).EXPERIMENT
    return experiment
