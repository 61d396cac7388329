"""Who of a network can retrain a run, asked before anything is uploaded.

The ledger elects only verifiers that stated the run's device class.  Where that leaves fewer than
a sub-quorum, a verdict is worth less than the network promises, and whoever submits should know it
before the upload and not from the verdict.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from milepost.api import Client
from milepost.errors import MachineCannot
from milepost_consensus.members import VERIFIER
from milepost_consensus.payloads import CLASS, Submit

SHOWN = 4
"""Names in a message."""


class Servers(NamedTuple):
    """The verifiers of other operators than the submitter's."""

    able: tuple[str, ...]
    """Names of those that serve the run's device class."""
    total: int
    """How many there are."""
    size: int
    """Of a sub-quorum of this network."""

    @property
    def are_few(self) -> bool:
        """Whether the device class leaves fewer than a sub-quorum that could be filled."""
        return len(self.able) < min(self.size, self.total)


def find_servers(client: Client, record: Submit, *, sender: bytes) -> Servers:
    """Who could be elected for a submission, as far as the ledger knows now."""
    members = client.members()
    operator = next((m["operator"] for m in members if m["id"] == sender.hex()), None)
    others = [m for m in members if m["roles"] & VERIFIER and m["operator"] != operator]
    able = tuple(m["name"] for m in others if _is_served(m["device_classes"], record))
    size = client.genesis()["params"]["sub_quorum_size"]
    return Servers(able, len(others), size)


def require_servers(servers: Servers, record: Submit, *, few: bool = False) -> None:
    """Raises MachineCannot where nobody can retrain a run, or only a `few`, unless these will do.

    The slug is not-served or few-verifiers.
    """
    if not servers.able:
        raise MachineCannot(
            f"None of {servers.total} verifiers of other operators serves {record.device_class},"
            " so nobody would retrain this run. Record it with profile exact or rounded, which"
            " every machine repeats.",
            slug="not-served",
        )
    if servers.are_few and not few:
        names = ", ".join(servers.able[:SHOWN]) + (" ..." if servers.able[SHOWN:] else "")
        raise MachineCannot(
            f"{len(servers.able)} of {servers.total} verifiers serve {record.device_class}"
            f" ({names}); a sub-quorum has {servers.size}, so fewer would look at a suspicious"
            " interval than this network asks for, and the verdict says of how many they were"
            " elected. To go on with them: --few-verifiers.",
            slug="few-verifiers",
        )


def _is_served(stated: Any, record: Submit) -> bool:
    """As the ledger sees it (R29): who stated nothing serves what every machine can."""
    if stated is None:
        return record.profile != CLASS
    return record.device_class in stated
