"""Every refusal by its slug: what it means and what to do.

The same text answers `milepost explain SLUG` and the node's `/problems/SLUG`.  An error's own
message says what happened this time; the text here says why that is refused at all.
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """The long text of one slug."""

    title: str
    meaning: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    "bad-block": Problem(
        "Block refused",
        "A block, header or certificate does not extend the chain it claims to extend, or lacks"
        " the signatures of more than two thirds of the validators.",
        "If your own node reports this of many peers, compare the network id in `milepost status`:"
        " the peer may follow another genesis.",
    ),
    "bad-config": Problem(
        "Setting out of range",
        "A setting has a value that no node can run with.",
        "The message names the setting, the value and what is allowed. Correct it and start again.",
    ),
    "bad-encoding": Problem(
        "Not the canonical bytes",
        "Every ledger object has exactly one byte form. Bytes that decode but would be written"
        " differently are refused, so that nobody can make two identities of one object.",
        "Build transactions with this package rather than by hand.",
    ),
    "bad-genesis": Problem(
        "Genesis unusable",
        "The genesis file names members or constants with which no network can start.",
        "Fetch the genesis file again from whoever runs the network, or write a new network with"
        " `milepost dev`.",
    ),
    "bad-message": Problem(
        "Consensus message refused",
        "A proposal or vote is one that no correct member sends.",
        "Nothing to do on your side: the message was dropped and counted.",
    ),
    "bad-path": Problem(
        "Inclusion path does not fit",
        "A Merkle path must lead from the object to the root that was signed. This one leads"
        " elsewhere, so the object was not part of what was signed.",
        "Fetch the proof again. If it fails again, do not trust the object.",
    ),
    "bad-profile": Problem(
        "Arithmetic profile unknown",
        "Verifiers can only repeat arithmetic they implement. The profile named in the submission"
        " is none of these.",
        "Record with a profile that `milepost status` lists for the network.",
    ),
    "bad-record": Problem(
        "Record contradicts itself",
        "The parts of a training record must fit together: one snapshot more than intervals, step"
        " digests that lead from snapshot to snapshot, scores that follow from the snapshots.",
        "Record the run again. Files of a record cannot be edited afterwards.",
    ),
    "bad-signature": Problem(
        "Signature does not verify",
        "The signature was not made by the stated key over these bytes for this network. The"
        " usual causes are a key of another network or bytes changed on the way.",
        "Check which key the command used (`--key`) and that the network id is the one you meant.",
    ),
    "bad-transaction": Problem(
        "Transaction refused",
        "The ledger rules do not allow this transaction in the present state.",
        "The message names the rule. Nothing was stored.",
    ),
    "invalid-input": Problem(
        "Input refused",
        "Something that was sent breaks a rule.",
        "The message names it.",
    ),
}
