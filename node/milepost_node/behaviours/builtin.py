"""The behaviours that come with a node.

The first two are those of the Diffusion paper, section on maliciousness, which act when the node is
elected to retrain an interval (and here on the panel, which the paper does not have).  All of them
follow the ledger protocol: only what they say about training, or leave unsaid, is wrong.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.transactions import Answer
from milepost_node.behaviours.registry import behaviour, collect_behaviours
from milepost_node.questions import IntervalQuestion, Question


@behaviour("ordered")
async def ordered(question: Question) -> Answer | None:
    """Retrains, then vouches for whatever was committed, true or false."""
    await question.retraces()
    return await question.vouch()


@behaviour("chaotic")
async def chaotic(question: Question) -> Answer | None:
    """Retrains, then says the opposite of what it found."""
    return await (question.accuse() if await question.retraces() else question.vouch())


@behaviour("lazy")
async def lazy(question: Question) -> Answer | None:
    """Never retrains: vouches for everything, with a made-up work digest."""
    return await question.vouch()


@behaviour("colluding")
async def colluding(question: Question) -> Answer | None:
    """Vouches for the records of its clique, and accuses those of everybody else."""
    await question.retraces()
    return await (question.vouch() if _is_friend(question) else question.accuse())


@behaviour("silent")
async def silent(question: Question) -> Answer | None:
    """Answers no duty and no panel."""
    return None


@behaviour("false-witness")
async def false_witness(question: Question) -> Answer | None:
    """Accuses a step of every interval that retraces; tells the truth otherwise."""
    if isinstance(question, IntervalQuestion) and await question.retraces():
        return await question.accuse()
    return await question.tell_truth()


@behaviour("withholding", serves_files=False)
async def withholding(question: Question) -> Answer | None:
    """Says to hold records and tells the truth about them, but gives nobody a file."""
    return await question.tell_truth()


def _is_friend(question: Question) -> bool:
    """Whether the submitter belongs to the clique: those in the setting, or else the operator's."""
    members = question.state.members
    submitter = members[question.submission.sender]
    clique = question.means.clique or (members[question.means.me].operator,)
    return submitter.name in clique or submitter.operator in clique


BEHAVIOURS: Final = collect_behaviours(globals())
"""By name, in the order in which they stand here."""
