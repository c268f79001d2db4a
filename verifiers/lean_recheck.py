"""The independent kernel replay: which proofs are judged once more by another process, by which checker, and what its failures mean.

A checker is believed after it has judged two control proofs rightly, one to accept and one to refuse. One that breaks on a proof gets the
control again and then the proof a second time: what breaks a sound checker twice has failed; a checker that fails its control is nobody's
fault and no verdict.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flywheel.errors import VerifierError
from flywheel.types import Check, content_id
from flywheel.verifiers.lean_check import Accepted
from flywheel.verifiers.lean_comparator import Comparator
from flywheel.verifiers.lean_kernel import CheckerRunner, KernelChecker, UnjudgedError
from flywheel.verifiers.lean_leanchecker import LeanChecker
from flywheel.verifiers.lean_protocol import BrokeError, LeanMissingError
from flywheel.verifiers.lean_toolchain import Settings, Toolchain

SHARES = {"auto": 1.0, "always": 1.0, "never": 0.0, "sampled": 0.1}
CONTROL = Accepted(
    name="FwControl.control",
    source="\nnamespace FwControl\ntheorem control : True := (\ntrivial\n)\nend FwControl\n",
    challenge="\nnamespace FwControl\ntheorem control : True := sorry\nend FwControl\n",
    allowed_axioms=("propext", "Classical.choice", "Quot.sound"),
)


class Rechecker:
    """Replays proofs.

    Args:
        settings: `Settings.replay` says which: ``always``, ``sampled`` (one in ten), a share between 0 and 1 (with each of them a checker
            that is missing is an error), ``never``, or ``auto``: all of them where there is a checker. `Settings.checker` says by what.
        sandbox: The sandbox's backend.
        checkers: Those to choose from, the preferred first.
    """

    def __init__(
        self, settings: Settings | None = None, *, sandbox: str = "bubblewrap", checkers: Sequence[KernelChecker] | None = None
    ) -> None:
        self.settings = settings or Settings.read()
        runner = CheckerRunner(settings=self.settings, sandbox=sandbox)
        known: list[KernelChecker] = list(checkers) if checkers is not None else [LeanChecker(runner), Comparator(runner)]
        wanted = self.settings.checker
        self._checkers = [checker for checker in known if wanted in ("auto", checker.name)]
        if not self._checkers:
            raise VerifierError(f"FLYWHEEL_LEAN_CHECKER is {wanted!r}, expected auto, {' or '.join(checker.name for checker in known)}")
        mode = self.settings.replay
        try:
            self._share = SHARES[mode] if mode in SHARES else float(mode)
        except ValueError:
            self._share = -1.0
        if not 0 <= self._share <= 1:
            raise VerifierError(f"FLYWHEEL_LEAN_REPLAY is {mode!r}, expected {', '.join(SHARES)} or a share such as 0.05")
        self._lock = threading.Lock()
        self._sound: set[tuple[str, Toolchain]] = set()

    def check(self, proof: Accepted) -> Check | None:
        """Return what a checker says of a proof; None where this one is not replayed. The same proof is always, or never, replayed.

        Raises:
            VerifierError: the checker is missing though it must be there, or is not sound.
        """
        if int(content_id("replay", proof.key), 16) % 10_000 >= self._share * 10_000:
            return None
        try:
            checker, lean = self._find(proof.project)
        except LeanMissingError:
            if self.settings.replay == "auto":
                return None
            raise
        with self._lock:
            if (checker.name, lean) not in self._sound:
                _check_controls(checker, lean)
                self._sound.add((checker.name, lean))
        try:
            return _judged(checker, lean, proof)
        except (BrokeError, UnjudgedError) as error:
            if isinstance(error, BrokeError) and error.own:
                return _broken(checker, error)
        _accept_control(checker, lean)
        try:
            return _judged(checker, lean, proof)
        except (BrokeError, UnjudgedError) as error:
            return _broken(checker, error)

    def _find(self, project: str | None) -> tuple[KernelChecker, Toolchain]:
        missing: LeanMissingError | None = None
        for checker in self._checkers:
            try:
                return checker, checker.find(project)
            except LeanMissingError as error:
                missing = missing or error
        assert missing is not None
        raise missing


def _judged(checker: KernelChecker, lean: Toolchain, proof: Accepted) -> Check:
    found = checker.judge(lean, proof)
    return Check(name="kernel_replay", passed=found.accepted, detail="" if found.accepted else f"{checker.name}: {found.detail}")


def _broken(checker: KernelChecker, error: BrokeError | UnjudgedError) -> Check:
    limit = isinstance(error, BrokeError) and error.cause in ("limit", "stalled")
    return Check(name="limit" if limit else "kills_grader", passed=False, detail=f"kernel replay by {checker.name}: {error}"[:300])


def _check_controls(checker: KernelChecker, lean: Toolchain) -> None:
    """Have a checker judge what is known.

    Raises:
        VerifierError: it judges wrongly, or not at all.
    """
    _accept_control(checker, lean)
    try:
        fooled = checker.judge(lean, checker.wrong(CONTROL)).accepted
    except (BrokeError, UnjudgedError):
        fooled = False
    if fooled:
        raise VerifierError(f"the kernel replay by {checker.name} accepts a wrong control proof; nothing is believed of it")


def _accept_control(checker: KernelChecker, lean: Toolchain) -> None:
    try:
        found = checker.judge(lean, CONTROL)
    except (BrokeError, UnjudgedError) as error:
        raise VerifierError(f"the kernel replay by {checker.name} breaks on its control proof: {error}") from error
    if not found.accepted:
        raise VerifierError(f"the kernel replay by {checker.name} refuses a right control proof: {found.detail}")
