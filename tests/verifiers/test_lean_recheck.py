"""The independent kernel replay: both checkers as processes that do as documented, and as processes that do not.

The real comparator can't be had where no Lean toolchain can: `scripted_comparator` stands in for it, with stand-ins for lake, landrun and
lean4export, which it calls as the real one does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.errors import VerifierError
from flywheel.sandbox import bubblewrap
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanVerifier
from flywheel.verifiers.lean_check import Accepted
from flywheel.verifiers.lean_comparator import OKAY, Comparator, read_verdict
from flywheel.verifiers.lean_kernel import Judgement, UnjudgedError
from flywheel.verifiers.lean_protocol import BrokeError
from flywheel.verifiers.lean_recheck import CONTROL, Rechecker
from flywheel.verifiers.lean_toolchain import Settings, Toolchain
from tests.verifiers.lean_helpers import HERE, STATEMENT, file_backend, repl_backend, write_lean, write_table

WORDS = ("MUTE", "LIAR", "TALKS", "CRASH", "LOUD", "BUSY", "REFUSE", "CRASH_ONCE")
PROOFS = [
    {"statement": "control : True", "answers": ["trivial"]},
    {"statement": "target : 1 + 1 = 2", "answers": ["rfl", "unchecked", *(f"proof_{word}" for word in WORDS)]},
    {"statement": "target : 1 + 1 = 2", "answers": ["em_proof"], "axioms": ["propext", "Classical.choice"]},
]
STAND_INS = {
    "lake": 'case "$1" in env) shift; exec "$@";; build) grep -q "^theorem" "$2.lean";; esac',
    "landrun": 'while [ "$1" != "--" ]; do shift; done; shift; exec "$@"',
    "lean4export": 'cat "$1.lean"',
}
SETTINGS = Settings(replay="always", cpu_s=0.3, header_cpu_s=0.2, memory_mb=512)


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def python_program(path: Path, script: Path, *arguments: object) -> Path:
    """Write a program that runs a script with whichever Python there is, inside a sandbox or out of it."""
    words = " ".join(map(str, arguments))
    lines = [
        f'[ -x "{python}" ] && exec "{python}" -I -S {script} {words} "$@"'
        for python in (bubblewrap.interpreter_inside(), bubblewrap.interpreter())
    ]
    return write_program(path, "\n".join(["#!/bin/sh", *lines, "exit 127", ""]))


def write_toolchain(folder: Path) -> Path:
    """Write a scripted toolchain with lake and all that comparator needs; return its folder of programs."""
    bin_ = write_lean(write_table(folder, PROOFS)).parent
    for name, text in STAND_INS.items():
        write_program(bin_ / name, f"#!/bin/sh\n{text}\n")
    script = bin_ / "scripted_comparator.py"
    script.write_bytes((HERE / script.name).read_bytes())
    python_program(bin_ / "comparator", script, bin_ / "table.json")
    return bin_


def point_at(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEAN", str(bin_ / "lean"))
    for variable, name in (("COMPARATOR", "comparator"), ("COMPARATOR_LANDRUN", "landrun"), ("COMPARATOR_LEAN4EXPORT", "lean4export")):
        monkeypatch.setenv(variable, str(bin_ / name))
    monkeypatch.delenv("LEAN4CHECKER", raising=False)
    monkeypatch.setenv("HOME", str(bin_))
    return bin_


@pytest.fixture
def lean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a toolchain of its own; its folder of programs."""
    return point_at(write_toolchain(tmp_path), monkeypatch)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rechecker]:
    """A toolchain that nobody changes, and a comparator on it that is probed once."""
    return write_toolchain(tmp_path_factory.mktemp("lean")), comparator()


@pytest.fixture
def judge(shared: tuple[Path, Rechecker], monkeypatch: pytest.MonkeyPatch) -> Rechecker:
    point_at(shared[0], monkeypatch)
    return shared[1]


def proof(body: str = "rfl", statement: str = "target : 1 + 1 = 2", **changed: object) -> Accepted:
    """Return an accepted proof, as `ProofChecker` gives it."""
    text = "\nnamespace Fw1\ntheorem {} := {}\nend Fw1\n"
    made = Accepted(
        name="Fw1.target",
        source=text.format(statement, f"(\n{body}\n)"),
        challenge=text.format(statement, "sorry"),
        allowed_axioms=CONTROL.allowed_axioms,
        key=body,
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def comparator(settings: Settings = SETTINGS, sandbox: str = "unsafe") -> Rechecker:
    return Rechecker(replace(settings, checker="comparator"), sandbox=sandbox)


def said(rechecker: Rechecker, accepted: Accepted) -> tuple[str, bool]:
    check = rechecker.check(accepted)
    assert check is not None
    return check.name, check.passed


# ---------------------------------------------------------------- comparator


def test_comparator_takes_proofs_and_refuses_the_rest(judge: Rechecker) -> None:
    assert said(judge, proof()) == ("kernel_replay", True)
    assert said(judge, proof("em_proof")) == ("kernel_replay", True)
    refused = judge.check(proof("em_proof", allowed_axioms=("propext",)))
    assert refused is not None
    assert (refused.passed, refused.detail) == (False, "comparator: Illegal axiom detected: 'Classical.choice'")
    assert said(judge, proof("proof_REFUSE")) == ("kernel_replay", False)
    assert said(judge, proof("sorry")) == ("kernel_replay", False)
    other = proof(challenge=proof(statement="target : 1 = 2").challenge)
    assert said(judge, other) == ("kernel_replay", False)


def test_comparator_runs_in_the_sandbox(lean: Path) -> None:
    assert said(comparator(sandbox="bubblewrap"), proof()) == ("kernel_replay", True)


@pytest.mark.parametrize(
    ("word", "check"),
    [
        ("MUTE", "kills_grader"),
        ("LIAR", "kills_grader"),
        ("TALKS", "kills_grader"),
        ("CRASH", "kills_grader"),
        ("LOUD", "limit"),
        ("BUSY", "limit"),
    ],
)
def test_a_proof_that_breaks_comparator_has_failed(judge: Rechecker, word: str, check: str) -> None:
    assert said(judge, proof(f"proof_{word}")) == (check, False)


def test_a_proof_that_met_a_broken_comparator_once_is_judged_again(judge: Rechecker) -> None:
    assert said(judge, proof("proof_CRASH_ONCE")) == ("kernel_replay", True)


class Stalls(Comparator):
    """A comparator that does not come to an end with a proof, and uses no CPU time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(self, project: str | None) -> Toolchain:
        return Toolchain(lean=Path("/lean"), sysroot=Path("/"), version="4.30.0")

    def judge(self, lean: Toolchain, proof: Accepted) -> Judgement:
        self.asked.append(proof.name)
        if proof.name == CONTROL.name:
            return Judgement(accepted="True" in proof.challenge)
        raise BrokeError("stalled", "no answer")


def test_what_stalls_is_tried_twice_with_a_control_between() -> None:
    stalls = Stalls()
    assert said(Rechecker(SETTINGS, checkers=[stalls]), proof()) == ("limit", False)
    assert stalls.asked == [CONTROL.name, CONTROL.name, "Fw1.target", CONTROL.name, "Fw1.target"]


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        (f"echo '{OKAY}'", "accepts a wrong"),
        ("echo 'Exporting #[x] from Solution'; echo 'uncaught exception: no' >&2; exit 1", "refuses a right"),
        ("echo 'Building Challenge'; echo 'uncaught exception: Child exited with 1' >&2; exit 1", "breaks on its control"),
        ("exit 0", "breaks on its control"),
        ("kill -9 $$", "breaks on its control"),
    ],
)
def test_a_comparator_that_misjudges_its_controls_is_nobodys_fault(lean: Path, script: str, wrong: str) -> None:
    write_program(lean / "comparator", f"#!/bin/sh\n{script}\n")
    with pytest.raises(VerifierError, match=wrong):
        comparator().check(proof())


@pytest.mark.parametrize("part", ["comparator", "landrun", "lean4export", "lake"])
def test_a_part_that_comparator_lacks_is_named(lean: Path, part: str) -> None:
    (lean / part).unlink()
    with pytest.raises(VerifierError, match=part.upper() if part != "lake" else "lake"):
        comparator().check(proof())
    assert comparator(replace(SETTINGS, replay="auto")).check(proof()) is None


def test_comparator_is_not_asked_about_projects(lean: Path) -> None:
    with pytest.raises(VerifierError, match="leanchecker"):
        comparator().check(proof(project="/somewhere"))


def test_only_what_comparators_sources_say_is_a_verdict() -> None:
    phases = "Building Challenge\nExporting #[x] from Challenge\nBuilding Solution\nExporting #[x] from Solution\n"
    assert read_verdict(f"{phases}Lean default kernel accepts the solution\n{OKAY}\n", 0).accepted
    refused = read_verdict(f"{phases}uncaught exception: Illegal axiom detected: 'x'\n", 1)
    assert (refused.accepted, refused.detail) == (False, "Illegal axiom detected: 'x'")
    for output, status in (
        (f"{phases}{OKAY}\n", 1),
        (f"{phases}{OKAY}\n", -9),
        (f"{OKAY}\n{phases}", 0),
        (phases, 0),
        ("", 0),
        ("uncaught exception: Illegal axiom detected: 'x'", 1),  # before anything was exported
        (f"{phases}uncaught exception: Child exited with 1\n", 1),
        (f"{phases}uncaught exception: x\n", 2),
    ):
        with pytest.raises(UnjudgedError):
            read_verdict(output, status)


# ---------------------------------------------------------------- leanchecker


def test_a_proof_is_replayed_by_leanchecker(lean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = write_program(
        lean / "lean4checker",
        '#!/bin/sh\nfile="${LEAN_PATH%%:*}/$1.olean"\n'
        '! grep -q "em_proof\\|skipKernelTC" "$file" || { echo "found a problem in $1"; exit 1; }\n',
    )
    monkeypatch.setenv("LEAN4CHECKER", str(checker))
    backend = repl_backend(lean / "table.json")
    verifier = LeanVerifier(backend=backend, rechecker=Rechecker(Settings(replay="always")))
    assert [check.name for check in judged(verifier, "rfl").checks][-1] == "kernel_replay"
    assert judged(verifier, "rfl").outcome == "solved"
    refused = judged(verifier, "em_proof")
    assert (refused.outcome, [check.name for check in refused.checks if not check.passed]) == ("failed", ["kernel_replay"])
    assert refused.evidence.strip() == "kernel_replay: leanchecker: found a problem in it"
    monkeypatch.setenv("LEAN4CHECKER", str(lean / "nothing"))
    with pytest.raises(VerifierError, match="LEAN4CHECKER"):
        LeanVerifier(backend=backend, rechecker=Rechecker(Settings(replay="always", checker="leanchecker"))).verify(*attempt("rfl"))
    verifier.close()


@pytest.mark.parametrize(("script", "wrong"), [("exit 0", "accepts a wrong"), ("exit 1", "refuses a right"), ("exit 139", "breaks")])
def test_a_leanchecker_that_misjudges_its_controls_is_nobodys_fault(
    lean: Path, script: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAN4CHECKER", str(write_program(lean / "lean4checker", f"#!/bin/sh\n{script}\n")))
    with pytest.raises(VerifierError, match=wrong):
        Rechecker(SETTINGS, sandbox="unsafe").check(proof())


def test_the_toolchains_checker_comes_before_comparator(lean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Rechecker(SETTINGS, sandbox="unsafe")
    assert both._find(None)[0].name == "comparator", "there is no other"
    write_program(lean / "leanchecker", "#!/bin/sh\n")
    assert both._find(None)[0].name == "leanchecker"
    with pytest.raises(VerifierError, match="FLYWHEEL_LEAN_CHECKER"):
        Rechecker(replace(SETTINGS, checker="abacus"))


def attempt(answer: str) -> tuple[Task, Trajectory]:
    task = Task.create(env="lean", family="t", prompt=STATEMENT, payload={"statement": STATEMENT})
    return task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)


def judged(verifier: LeanVerifier, answer: str) -> Verdict:
    return verifier.verify(*attempt(answer))


# ---------------------------------------------------------------- which proofs


def test_shares_of_proofs_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("often", "nan", "2", "-0.1", ""):
        with pytest.raises(VerifierError, match="FLYWHEEL_LEAN_REPLAY"):
            Rechecker(Settings(replay=mode))
    monkeypatch.setenv("LEAN", "/nowhere")

    def asked(mode: str) -> list[int]:
        """Return which of many proofs a checker is looked for, and not found."""
        chosen = []
        for at in range(200):
            try:
                assert Rechecker(Settings(replay=mode)).check(proof(str(at))) is None
            except VerifierError:
                chosen.append(at)
        return chosen

    assert asked("never") == []
    assert asked("auto") == []
    assert asked("always") == list(range(200))
    half, tenth = asked("0.5"), asked("sampled")
    assert 60 < len(half) < 140
    assert 5 < len(tenth) < 40
    assert set(tenth) < set(half), "the same proof is always, or never, replayed"


def test_the_same_answer_is_the_same_proof_to_the_draw(tmp_path: Path) -> None:
    backend = file_backend(write_table(tmp_path))
    keys = []

    class Keeps(Rechecker):
        def check(self, proof: Accepted) -> None:
            keys.append(proof.key)
            assert proof.challenge == proof.source.replace("(\nrfl\n)", "sorry")

    verifier = LeanVerifier(backend=backend, rechecker=Keeps(Settings(replay="always")))
    for _ in range(2):
        assert judged(verifier, "rfl").outcome == "solved"
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.fixture
def real() -> Rechecker:
    made = Rechecker(Settings(replay="always"))
    try:
        made._find(None)
    except VerifierError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.lean
def test_a_real_checker_takes_a_proof(real: Rechecker) -> None:
    assert said(real, CONTROL) == ("kernel_replay", True)
