"""Bugs in what verifiers serve, and in who is elected and settles what because of it."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

SERVICES: Final = tuple(
    Mutant(name, module, old, new, ("services",))
    for name, module, old, new in (
        (
            "statements not counted",
            "services",
            "statements=standing.statements + 1",
            "statements=standing.statements",
        ),
        (
            "an old statement said again",
            "services",
            "if serve.statement != standing.statements:",
            "if serve.statement > standing.statements:",
        ),
        (
            "statements may skip",
            "services",
            "if serve.statement != standing.statements:",
            "if serve.statement < standing.statements:",
        ),
        (
            "device classes in any order",
            "services",
            "if list(names) != sorted(set(names)):",
            "if len(names) != len(set(names)):",
        ),
        (
            "a device class named twice",
            "services",
            "if list(names) != sorted(set(names)):",
            "if list(names) != sorted(names):",
        ),
        (
            "who said nothing serves every class",
            "services",
            "return submit.profile != CLASS",
            "return True",
        ),
        (
            "who said nothing serves nothing",
            "services",
            "return submit.profile != CLASS",
            "return False",
        ),
        (
            "withdrawn portable classes still served",
            "services",
            "return submit.device_class in stated",
            "return submit.profile != CLASS or submit.device_class in stated",
        ),
        (
            "everybody is elected for a class",
            "duties",
            "return tuple(m.id for m in self.verifiers if is_served(self.served, m.id, submit))",
            "return tuple(m.id for m in self.verifiers)",
        ),
        (
            "a class that only the submitter's operator serves is taken",
            "draft",
            "if not self._terms.get_servers(sender, submit):",
            "if not self._terms.get_panel(submit):",
        ),
        (
            "a class that nobody serves is taken",
            "draft",
            "if not self._terms.get_servers(sender, submit):",
            "if False:",
        ),
        (
            "who is not on the panel has a say",
            "answers",
            "if sender not in submission.panel:",
            "if False:",
        ),
        (
            "panel of all verifiers",
            "verification",
            "panel=terms.get_panel(submit),",
            "panel=tuple(member.id for member in terms.verifiers),",
        ),
        (
            "panel without those in jail",
            "verification",
            "panel=terms.get_panel(submit),",
            "panel=tuple(terms.get_eligible(submission.sender, submit)),",
        ),
        (
            "duties pass to who withdrew",
            "duties",
            "if is_served(terms.served, verifier, submission.submit)\n",
            "if True\n",
        ),
        (
            "a submitter that is not on the panel answers",
            "answers",
            "answers=(own, answer) if submission.sender in submission.panel else (answer,),",
            "answers=(own, answer) if submission.submit.steps else (answer,),",
        ),
        (
            "eligible counts the quorum only",
            "outcomes",
            "eligible=len(submission.quorum) + len(submission.standbys),",
            "eligible=len(submission.quorum),",
        ),
        (
            "work of those who stated nothing asked for at once",
            "worklist",
            "if verifier in submission.panel\n",
            "if submission.phase\n",
        ),
    )
)
