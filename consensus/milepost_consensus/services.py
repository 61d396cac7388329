"""What verifiers say that they can retrain: the device classes whose bits they repeat.

Who cannot repeat a run's arithmetic must not be asked about it: its silence would use up an
extension, its answer would be wrong, and its vote would outnumber those who know.  So a verifier
states its device classes, and only those who named a run's are elected for it.  Rule numbers refer
to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from milepost_consensus.encoding import validate_text, validate_uint
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.params import MAX_DEVICE_CLASSES
from milepost_consensus.payloads import CLASS, Serve, Submit
from milepost_consensus.standings import Standing


def validate_serve(serve: Serve) -> None:
    """Raises InvalidInput unless a statement is well formed in itself."""
    names = serve.device_classes
    validate_uint("device classes", len(names), high=MAX_DEVICE_CLASSES)
    for name in names:
        validate_text("device class", name)
    if list(names) != sorted(set(names)):
        raise InvalidTransaction("device classes are not in order, or one is named twice")


def apply_serve(serve: Serve, standing: Standing) -> Standing:
    """R29: what the sender serves from the next height on, in the place of what it said before."""
    validate_serve(serve)
    if serve.statement != standing.statements:
        raise InvalidTransaction(
            f"statement {serve.statement}; this verifier made {standing.statements} of what it"
            " serves",
            slug="wrong-attempt",
        )
    return replace(
        standing, device_classes=serve.device_classes, statements=standing.statements + 1
    )


def get_served(standings: Iterable[Standing]) -> dict[bytes, frozenset[str]]:
    """What every member serves that ever made a statement."""
    return {s.id: frozenset(s.device_classes) for s in standings if s.statements}


def is_served(served: Mapping[bytes, frozenset[str]], verifier: bytes, submit: Submit) -> bool:
    """R29: whether a verifier repeats a run's arithmetic, as far as it said.

    Who said nothing is taken to serve what every machine can, and no class of machines.
    """
    stated = served.get(verifier)
    if stated is None:
        return submit.profile != CLASS
    return submit.device_class in stated
