"""What a person sees of a submission: who retraced what, and what became of the accusations."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost.cli.submissions import describe_answers, group_duties, print_accusations
from milepost_consensus.submissions import Accusation, Duty, PanelAnswer, Submission
from milepost_consensus.views import to_view
from tests.support.ledger import make_hash, make_record

ELM, OAK = make_hash("elm"), make_hash("oak")
NAMES = {ELM.hex(): "elm", OAK.hex(): "oak"}
LEAF, OTHER = make_hash("leaf"), make_hash("other")
ACCUSATION = Accusation(2, 9, LEAF, bytes(32), (ELM,), (PanelAnswer(ELM, OTHER),))
SUBMISSION = Submission(
    make_hash("id"),
    make_hash("sender"),
    make_record().submit,
    1,
    duties=(Duty(2, ELM, 0, 9, "differs"), Duty(2, OAK, 0, 9, "agrees")),
)


@pytest.mark.parametrize(
    ("outcome", "mark", "words"),
    [
        ("refuted", " (refuted)", "refuted, the step is as recorded"),
        (
            "dismissed",
            " (dismissed)",
            "dismissed, a panel had proved everybody wrong who says so",
        ),
        ("upheld", "", "upheld, the step does not follow"),
        ("unsettled", "", "unsettled"),
        ("", "", "open"),
    ],
)
def test_an_accusation_is_shown_with_its_outcome(
    capsys: pytest.CaptureFixture[str], outcome: str, mark: str, words: str
) -> None:
    accusation = replace(ACCUSATION, outcome=outcome)
    view = to_view(replace(SUBMISSION, accusations=(accusation,)))
    assert view["accusations"][0]["outcome"] == outcome
    print_accusations(view, NAMES)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown == (
        f"interval 2, step 9: accused by elm; {words} (1 of 1 verifiers got another result)"
    )
    duties = group_duties(view)[2]
    assert describe_answers(view, duties, NAMES) == f"✗ elm{mark}  ✓ oak"
