"""`milepost.Run`: the recorder, with networks and parents by the names that people use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from milepost import bundle
from milepost.api import Client
from milepost.errors import Refused, WrongUsage
from milepost.registering import Registrar, find_profile_of
from milepost_consensus.verdicts import VALID
from milepost_ml import recorder
from milepost_ml.declaration import Model, Optimizer, Options
from milepost_ml.errors import RecordingError
from milepost_ml.files import MODEL
from milepost_ml.loop import LoopOptions
from milepost_ml.registration import ParentModel

if TYPE_CHECKING:
    from transformers import Trainer

    from milepost_ml.frameworks.lightning import RunCallback
    from milepost_ml.frameworks.loader import EpochLoader

_ADAPTED = frozenset({"lightning", "transformers"})
"""Whoever imported one of these trains with it, whatever else is loaded."""
_TORCH_ONLY = frozenset({"loss", "stride", "tolerance", *LoopOptions.__annotations__})


class Run(recorder.Run):
    """One training run and its record; see `milepost_ml.recorder.Run` for all other options.

    `register` has the run registered before its first step: the URL of a node, a network's folder,
    or True for the network that the commands would use here.  The network then gives the seed, from
    which order, dropout and initial weights follow, and the verdict can be FULL+REGISTERED.

    `parent` continues a model that the network judged VALID: the run folder of its submitter, whose
    model.safetensors is loaded, or `sub_...`, whose weights the model must hold already.

    `key` is the submitter's key file, where it is not the network's usual one.

    Without model, optimizer and loss the run is recorded by the adapter of a framework, which finds
    them in the framework's trainer: `lightning` and `loader`, or `attach`.  In a script that has
    imported Keras and neither of these, it is one of `model.fit`: see
    `milepost_ml.frameworks.keras.KerasRun`.
    """

    def __new__(cls, name: str, model: Model | None = None, *others: Any, **options: Any) -> Any:
        if model is None and "keras" in sys.modules and not _ADAPTED & set(sys.modules):
            from milepost_ml.frameworks.keras import KerasRun

            odd = sorted(_TORCH_ONLY & set(options))
            if odd:
                raise RecordingError(
                    f"{odd[0]}= is for models of PyTorch; a Keras model says in compile what loss"
                    " and optimizer do",
                    slug="unsupported-framework",
                )
            chosen = (options.pop(what, None) for what in ("register", "parent", "key"))
            return KerasRun(name, **find_origin(*chosen), **options)
        return super().__new__(cls)

    def __init__(
        self,
        name: str,
        model: Model | None = None,
        optimizer: Optimizer | None = None,
        *,
        register: str | Path | bool = False,
        parent: str | Path | None = None,
        key: str | Path | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            name,
            model,
            optimizer,
            **find_origin(register, parent, key),
            **options,
        )

    def loader(self, *data: Any, batch_size: int) -> EpochLoader:
        """The training data in the run's order, for a framework's own loop.

        `data` as in `batches`; items of a data set may be dictionaries as well.
        """
        from milepost_ml.frameworks.loader import EpochLoader, read_data

        structure, tensors = read_data(data)
        return EpochLoader(self, tensors, structure, batch_size=batch_size, dataset=data[0])

    def lightning(self) -> RunCallback:
        """The callback that records what a Lightning Trainer trains on this run's `loader`."""
        with needed("lightning"):
            from milepost_ml.frameworks.lightning import RunCallback

        return RunCallback(self)

    def attach(self, trainer: Trainer) -> Self:
        """Record what a Trainer of Hugging Face's transformers trains; returns the run."""
        with needed("transformers"):
            from milepost_ml.frameworks.transformers import attach

        attach(self, trainer)
        return self


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around the import of an adapter: says how to install what it needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this adapter needs {error.name}, which is not installed here. Install it:"
            f" pip install 'milepost[{extra}]'"
        ) from error


class Origin(TypedDict):
    """Where a run comes from, as the recorder takes it."""

    parent: ParentModel | None
    register: Registrar | None


def find_origin(
    register: str | Path | bool | None, parent: str | Path | None, key: str | Path | None
) -> Origin:
    """See `Run`; raises as `find_parent`."""
    return Origin(
        parent=find_parent(parent, register or True) if parent is not None else None,
        register=Registrar(register, key=key) if register else None,
    )


def find_parent(parent: str | Path, network: str | Path | bool) -> ParentModel:
    """A judged model by its run folder, or by its submission on a network.

    Raises WrongUsage (slug bad-parent) unless its verdict is VALID, CannotTell for a folder without
    a proof.
    """
    folder = Path(parent)
    if folder.is_dir():
        verdict = bundle.read_proof(folder / bundle.PROOF_FILE).bundle.verdict
        found = ParentModel(verdict.submission, verdict.model_digest, folder / MODEL)
        outcome = verdict.outcome
    else:
        with Client(find_profile_of(network).nodes) as client:
            try:
                answer = client.submission(str(parent))
            except Refused as error:
                raise WrongUsage(
                    f"There is no run folder and no submission {parent}: {error}",
                    slug="bad-parent",
                ) from error
        outcome = answer["verdict"]["outcome"] if answer["verdict"] is not None else "not there yet"
        found = ParentModel(
            bytes.fromhex(answer["submission"]["id"]),
            bytes.fromhex(answer["submission"]["submit"]["model_digest"]),
            None,
        )
    if outcome != VALID:
        raise WrongUsage(
            f"The verdict on {parent} is {outcome}: only VALID models can be continued.",
            slug="bad-parent",
        )
    return found
