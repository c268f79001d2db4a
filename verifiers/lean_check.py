"""Judges one proof with a backend: the statement alone, then the proof under a name that nobody could guess, then what it rests on.

Two elaborations from the task's own header, neither of which sees the other. The first has the statement with its proof left open: it must
elaborate, and Lean's printed form of it (``pp.all``) is what was asked. The second has the answer between parentheses. Then Lean is asked
what was proved and on which axioms it rests, in commands of our own whose lines are known, the last of which names something that does not
exist and was made up after the answer was sent: an answer can print what it likes, but not on those lines, and not that name.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from flywheel.errors import VerifierError
from flywheel.types import Check
from flywheel.verifiers.lean_gate import Statement, normalized, read_statement
from flywheel.verifiers.lean_protocol import LeanBackend, Message, Theorem

_SORRY = re.compile(r"declaration uses [`'‘]?sorry")
_NO_AXIOMS = "does not depend on any axioms"
_AXIOMS = "depends on axioms: ["
MAX_SHOWN = 600


class UnreadableReportError(VerifierError):
    """What Lean said to commands of ours is not what it says to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a theorem is put: a fresh namespace inside the statement's own, which keeps names meaning what they meant."""

    nonce: str
    statement: Statement

    @staticmethod
    def fresh(statement: Statement) -> Place:
        """Return a place that no answer can name."""
        return Place(nonce=f"Fw{secrets.token_hex(12)}", statement=statement)

    @property
    def namespace(self) -> str:
        """The namespace's whole name."""
        return f"{self.statement.namespace}.{self.nonce}" if self.statement.namespace else self.nonce

    @property
    def name(self) -> str:
        """The theorem's whole name."""
        return f"{self.namespace}.{self.statement.name}"

    @property
    def opening(self) -> str:
        """What stands before the proof, ``:=`` included."""
        name, signature = self.statement.name, self.statement.signature
        gap = "" if signature.startswith(".{") else " "
        end = "\n" if "--" in signature.rpartition("\n")[2] else " "  # a comment at its end must not swallow what follows
        return f"namespace {self.namespace}\ntheorem {name}{gap}{signature}{end}:="

    def declaration(self, body: str) -> str:
        """Return the commands that declare the theorem with a proof."""
        return f"{self.opening} {body}\nend {self.namespace}"

    def scrub(self, text: str) -> str:
        """Return a text without the nonce, so that the same answer gets the same evidence."""
        return text.replace(f"{self.nonce}.", "").replace(self.nonce, "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A proof that was accepted, as a file of its own, for whoever judges it once more.

    Attributes:
        name: The theorem's whole name.
        source: The file: header, theorem and proof.
        challenge: The same file with the proof left open.
        allowed_axioms: What the proof may rest on.
        project: The Lake project that it lives in, if any.
        key: The file without what is made up for every check: the same for the same answer.
    """

    name: str
    source: str
    challenge: str
    allowed_axioms: tuple[str, ...]
    project: str | None = None
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The checks of one answer, in order; the last one is the one that failed, if any did."""

    checks: tuple[Check, ...]
    accepted: Accepted | None = None

    @property
    def passed(self) -> bool:
        """Whether the answer is a proof."""
        return bool(self.checks) and all(check.passed for check in self.checks)


class ProofChecker:
    """Judges answers that the lexical gate has let through. Remembers what statements say."""

    def __init__(self, backend: LeanBackend, *, max_statements: int = 1024) -> None:
        self.backend = backend
        self._known: OrderedDict[Theorem, str] = OrderedDict()
        self._max, self._lock = max_statements, Lock()

    def check(self, theorem: Theorem, answer: str, allowed_axioms: Iterable[str]) -> Finding:
        """Return the findings on an answer.

        Raises:
            ValueError: the statement or the header is not fit to be proved.
            VerifierError: Lean can't be reached, or says what this module can't read.
        """
        asked, allowed = self.asked(theorem), tuple(allowed_axioms)
        try:
            return self._judged(theorem, answer, asked, allowed)
        except UnreadableReportError:
            # An answer that got hold of Lean could have written it; whether Lean reports at all is asked with a proof of our own.
            control = replace(theorem, statement="theorem control : True")
            self._judged(control, "trivial", self.asked(control), allowed)
            detail = "what Lean says after this proof is not what it says after others"
            return Finding(checks=(Check(name="kills_grader", passed=False, detail=detail),))

    def _judged(self, theorem: Theorem, answer: str, asked: str, allowed: tuple[str, ...]) -> Finding:
        place = Place.fresh(read_statement(theorem.statement))
        fence = f"fence{secrets.token_hex(12)}"
        proof = place.declaration(f"(\n{normalized(answer)}\n)")
        report = f"set_option pp.all true in\n#check @{place.name}\n#print axioms {place.name}\n#check {fence}"
        try:
            got = self.backend.elaborate(theorem.header, [proof, report], project=theorem.project)
        except ValueError as error:
            raise UnreadableReportError(f"a header that was read before is refused now: {error}") from error
        if got.broke is not None:
            return Finding(checks=(Check(name=got.broke, passed=False, detail=got.detail[:MAX_SHOWN]),))
        said, reported = got.messages
        checks = [Check(name="gate", passed=True), Check(name="statement", passed=True)]
        wrong = next((m for m in said if m.severity == "error"), None) or next((m for m in said if _SORRY.search(m.text)), None)
        if wrong is not None:
            # Lines of the answer begin after the namespace, the statement's own lines and the bracket.
            line = wrong.line - place.opening.count("\n") - 1
            name = "sorry" if _SORRY.search(wrong.text) else "elaborates"
            where = f"line {line}: " if line > 0 else ""
            checks.append(Check(name=name, passed=False, detail=place.scrub(f"{where}{wrong.text}")[:MAX_SHOWN]))
            return Finding(checks=tuple(checks))
        checks.append(Check(name="elaborates", passed=True))
        if not any(m.line == 4 and m.severity == "error" and fence in m.text for m in reported):
            raise UnreadableReportError(f"Lean's report on a proof does not end as it must: {_shown(reported)}")
        if any(m.severity == "error" and m.line != 4 for m in reported):
            # Without an error before, the theorem must be there; where it is not, something other than the proof was elaborated.
            checks.append(Check(name="declared", passed=False, detail=place.scrub(_shown(reported))[:MAX_SHOWN]))
            return Finding(checks=tuple(checks))
        proved = _type_of(_only(reported, 2), place)
        checks.append(
            Check(name="statement_match", passed=proved == asked, detail="" if proved == asked else "another statement was proved")
        )
        axioms = read_axioms(_only(reported, 3).text, place.name)
        foreign = sorted(set(axioms) - set(allowed))
        checks.append(Check(name="axioms", passed=not foreign, detail=place.scrub(f"rests on {', '.join(foreign)}") if foreign else ""))
        if not all(check.passed for check in checks):
            return Finding(checks=tuple(checks))
        source = f"{theorem.header}\n{proof}\n"
        accepted = Accepted(
            name=place.name,
            source=source,
            challenge=f"{theorem.header}\n{place.declaration('sorry')}\n",
            allowed_axioms=allowed,
            project=theorem.project,
            key=place.scrub(source),
        )
        return Finding(checks=tuple(checks), accepted=accepted)

    def asked(self, theorem: Theorem) -> str:
        """Return what a statement says in Lean's own full form.

        Raises:
            ValueError: it does not elaborate.
            VerifierError: Lean can't be reached.
        """
        with self._lock:
            if theorem in self._known:
                self._known.move_to_end(theorem)
                return self._known[theorem]
        place = Place.fresh(read_statement(theorem.statement))
        got = self.backend.elaborate(theorem.header, _asking(place), project=theorem.project)
        if got.broke is not None:
            raise ValueError(f"lean payload: the statement breaks Lean ({got.broke}: {got.detail})")
        full = _said(place, *got.messages)
        self._remember(theorem, full)
        return full

    def ask_all(self, theorems: Iterable[Theorem]) -> None:
        """Read many statements ahead, one process for all that share a header; those that don't elaborate are left to `asked`.

        Raises:
            VerifierError: Lean can't be reached.
        """
        with self._lock:
            new = [theorem for theorem in dict.fromkeys(theorems) if theorem not in self._known]
        batches: dict[tuple[str, str | None], list[tuple[Theorem, Place]]] = {}
        for theorem in new:
            place = Place.fresh(read_statement(theorem.statement))
            batches.setdefault((theorem.header, theorem.project), []).append((theorem, place))
        for (header, project), batch in batches.items():
            commands = [command for _, place in batch for command in _asking(place)]
            try:
                got = self.backend.elaborate(header, commands, project=project)
            except ValueError:
                continue
            if got.broke is not None:
                continue
            for at, (theorem, place) in enumerate(batch):
                try:
                    self._remember(theorem, _said(place, *got.messages[2 * at : 2 * at + 2]))
                except (ValueError, VerifierError):
                    continue

    def _remember(self, theorem: Theorem, full: str) -> None:
        with self._lock:
            self._known[theorem] = full
            while len(self._known) > self._max:
                self._known.popitem(last=False)


def _asking(place: Place) -> list[str]:
    """Return the commands that make Lean say what a statement means."""
    return [place.declaration("sorry"), f"set_option pp.all true in\n#check @{place.name}"]


def _said(place: Place, said: Sequence[Message], reported: Sequence[Message]) -> str:
    """Return a statement's meaning from what Lean said to `_asking`.

    Raises:
        ValueError: it does not elaborate.
        VerifierError: Lean says what this module can't read.
    """
    error = next((m for m in said if m.severity == "error"), None)
    if error is not None:
        raise ValueError(f"lean payload: the statement does not elaborate: {place.scrub(error.text)[:MAX_SHOWN]}")
    if not any(_SORRY.search(m.text) for m in said):
        raise VerifierError(f"Lean does not warn of an open proof, so it can't be trusted with one: {_shown(said)}")
    return _type_of(_only(reported, 2), place)


def read_axioms(text: str, name: str) -> tuple[str, ...]:
    """Return the axioms that a message of ``#print axioms`` names.

    Raises:
        UnreadableReportError: it is not such a message about `name`.
    """
    flat = " ".join(text.split())
    match = re.fullmatch(rf"'(?:[^'\s]*\.)?{re.escape(name)}' ({re.escape(_NO_AXIOMS)}|{re.escape(_AXIOMS)}([^\[\]]+)\])", flat)
    if match is None:
        raise UnreadableReportError(f"'#print axioms {name}' says {flat[:300]!r}, which is not a list of axioms")
    return () if match[2] is None else tuple(part.strip() for part in match[2].split(","))


def _only(messages: Sequence[Message], line: int) -> Message:
    """Return the one message about a line; our commands give exactly one each.

    Raises:
        UnreadableReportError: there is none, or another number of them.
    """
    found = [m for m in messages if m.line == line and m.severity == "info"]
    if len(found) != 1:
        raise UnreadableReportError(f"Lean says {len(found)} things on line {line} of a report, expected one: {_shown(messages)}")
    return found[0]


def _type_of(message: Message, place: Place) -> str:
    name, colon, full = place.scrub(" ".join(message.text.split())).partition(" : ")
    if not colon or not full or place.statement.name not in name:
        raise UnreadableReportError(f"'#check' says {message.text[:300]!r}, which is not a name and its type")
    return full


def _shown(messages: Sequence[Message]) -> str:
    return "; ".join(f"{m.line}:{m.column} {m.severity}: {m.text[:200]}" for m in messages)[:MAX_SHOWN] or "nothing"
