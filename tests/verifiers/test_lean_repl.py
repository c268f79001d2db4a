"""The REPL's protocol against recordings of the real one, and the pool against processes that misbehave in every way."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_process import ReplProcess, Watch, read_messages
from flywheel.verifiers.lean_protocol import BrokeError, Theorem
from flywheel.verifiers.lean_repl import ReplBackend
from flywheel.verifiers.lean_toolchain import Settings
from tests.verifiers.lean_backend_contract import STANDARD, TARGET
from tests.verifiers.lean_helpers import HERE, repl_backend, write_table
from tests.verifiers.lean_replay import answers, requests

RECORDINGS = sorted((HERE / "lean_repl").glob("*.in"))
QUICK = Settings(workers=2, cpu_s=0.3, memory_mb=256)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ReplBackend]:
    made = repl_backend(write_table(tmp_path))
    yield made
    made.close()


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[ReplBackend]:
    made = repl_backend(write_table(tmp_path), settings=QUICK)
    yield made
    made.close()


def last(backend: ReplBackend, answer: str) -> tuple[str, bool]:
    """Return the name of the last check on an answer, and whether it passed."""
    check = ProofChecker(backend).check(TARGET, answer, STANDARD).checks[-1]
    return check.name, check.passed


def kill_idle(backend: ReplBackend) -> None:
    """Have the kernel kill the processes that wait, as it does when memory runs out."""
    for process in backend.pool._idle:
        os.kill(process._process.pid, signal.SIGKILL)
        assert process._process.wait(30) == -signal.SIGKILL


# ---------------------------------------------------------------- recordings


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_the_client_speaks_as_the_recordings_do(recording: Path) -> None:
    argv = [sys.executable, "-I", "-S", str(HERE / "lean_replay.py"), str(recording)]
    process = ReplProcess(argv, backend="unsafe", show=[], env={}, memory_bytes=1 << 30)
    try:
        for request, expected in zip(requests(recording), answers(recording), strict=True):
            answer = process.ask(request, Watch())
            assert answer == json.loads(expected)
            for message in read_messages(answer):
                assert not message.text.startswith("unreadable")
                assert message.line >= 0
    finally:
        process.kill()


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) > 50


def test_errors_and_sorries_of_recordings_are_seen() -> None:
    said = [message for recording in RECORDINGS for text in answers(recording) for message in read_messages(json.loads(text))]
    assert {message.severity for message in said} == {"error", "warning", "info"}
    assert any(message.text == "Unknown identifier `my_fake_premise`" and message.severity == "error" for message in said)
    assert sum("declaration uses" in message.text for message in said) > 50


# ---------------------------------------------------------------- misbehaviour


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ("DIE", "kills_grader"),
        ("GARBLE", "kills_grader"),
        ("TWICE", "kills_grader"),
        ("LATE", "kills_grader"),
        ("FORGE", "kills_grader"),
        ("FORGE_SLOWLY", "kills_grader"),
        ("SPIN", "limit"),
        ("FLOOD", "limit"),
        ("EAT", "limit"),
    ],
)
def test_an_answer_that_breaks_lean_has_failed(quick: ReplBackend, answer: str, check: str) -> None:
    assert last(quick, answer) == (check, False)
    assert last(quick, "rfl") == ("axioms", True)


def test_a_limit_of_its_own_is_not_tried_again(quick: ReplBackend) -> None:
    assert last(quick, "SPIN") == ("limit", False)
    assert quick.pool.num_started == 1


def test_time_without_cpu_time_is_tried_again_and_then_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.verifiers.lean_repl._IDLE_S", 1.0)
    backend = repl_backend(write_table(tmp_path), settings=QUICK)
    try:
        assert last(backend, "slow_HANG_ONCE") == ("axioms", True)
        assert last(backend, "HANG") == ("limit", False)
    finally:
        backend.close()


def test_a_crash_that_does_not_come_again_costs_nothing(backend: ReplBackend) -> None:
    assert last(backend, "slow_DIE_ONCE") == ("axioms", True)


def test_a_process_that_dies_between_requests_is_nobodys_fault(backend: ReplBackend) -> None:
    assert last(backend, "rfl") == ("axioms", True)
    kill_idle(backend)
    assert last(backend, "rfl") == ("axioms", True)


def test_what_does_not_start_is_an_infrastructure_error(tmp_path: Path) -> None:
    for argv in (["/bin/false"], ["/nowhere/repl"], ["/bin/echo", '{"env": 0}\n\n']):
        backend = ReplBackend(QUICK, argv=argv, sandbox="unsafe")
        with pytest.raises(VerifierError):
            backend.elaborate("", ["example : 1 + 1 = 2 := rfl"])
        backend.close()


def test_a_repl_that_says_yes_to_everything_judges_nothing(tmp_path: Path) -> None:
    yes = tmp_path / "yes.py"
    yes.write_text("import sys\nfor n, line in enumerate(l for l in sys.stdin if l.strip()): print('{\"env\": %d}\\n' % n, flush=True)\n")
    backend = ReplBackend(QUICK, argv=[sys.executable, str(yes)], sandbox="unsafe")
    with pytest.raises(VerifierError, match="control probe"):
        ProofChecker(backend).check(TARGET, "sorry_free", STANDARD)
    backend.close()


def test_requests_out_of_step_are_noticed(tmp_path: Path) -> None:
    process = repl_backend(write_table(tmp_path))._start(None)
    process.ask({"cmd": "example : 1 + 1 = 2 := rfl"}, Watch())
    process._num_envs += 1
    with pytest.raises(BrokeError, match="environment 3, expected 4"):
        process.ask({"cmd": "example : 1 + 1 = 2 := rfl"}, Watch())
    assert not process.usable


# ---------------------------------------------------------------- the pool


def test_headers_are_loaded_once_and_kept(tmp_path: Path) -> None:
    backend = repl_backend(write_table(tmp_path), settings=Settings(workers=1, cpu_s=5, memory_mb=1024), max_headers=2)
    for header in ("import A", "import B", "import A", "import B"):
        backend.elaborate(header, ["example : 1 + 1 = 2 := rfl"])
    assert backend.pool.num_started == 1
    assert list(backend.pool._idle[0].headers) == ["import A", "import B"]
    backend.elaborate("import C", ["example : 1 + 1 = 2 := rfl"])
    assert backend.pool.num_started == 2
    assert list(backend.pool._idle[0].headers) == ["import C"]
    backend.close()


def test_processes_are_replaced_after_their_share_of_requests(tmp_path: Path) -> None:
    backend = repl_backend(write_table(tmp_path), settings=Settings(workers=1, cpu_s=5, memory_mb=1024), max_requests=6)
    for _ in range(4):
        assert last(backend, "rfl") == ("axioms", True)
    assert backend.pool.num_started > 1
    backend.close()


def test_a_state_outlives_its_process(backend: ReplBackend) -> None:
    state = backend.open_goal(TARGET)
    step = backend.run_tactic(state, "skip")
    assert step.state is not None
    kill_idle(backend)
    again = backend.run_tactic(step.state, "rfl")
    assert again.state is not None
    assert again.state.goals == ()
    assert again.state.tactics == ("skip", "rfl")


def test_a_tactic_that_breaks_lean_is_an_error_and_no_more(quick: ReplBackend) -> None:
    state = quick.open_goal(TARGET)
    for tactic in ("DIE", "SPIN"):
        step = quick.run_tactic(state, tactic)
        assert step.state is None
        assert "Lean" in step.error or "limit" in step.error
    assert quick.run_tactic(state, "rfl").state is not None


def test_many_threads_share_few_processes_and_lose_nothing(tmp_path: Path) -> None:
    backend = repl_backend(write_table(tmp_path), settings=Settings(workers=2, cpu_s=5, memory_mb=1024), max_requests=30)
    wanted = {"rfl": True, "wrong": False, "DIE": False, "by rfl": True, "TWICE": False, "cheat_proof": False}
    jobs = list(wanted) * 4
    checker = ProofChecker(backend)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda answer: checker.check(TARGET, answer, STANDARD).passed, jobs))
    assert found == [wanted[answer] for answer in jobs]
    backend.close()
    assert backend.pool._num == 0


def test_closing_ends_who_waits(tmp_path: Path) -> None:
    backend = repl_backend(write_table(tmp_path), settings=Settings(workers=1, cpu_s=5, memory_mb=1024))
    raised: list[BaseException] = []
    with backend.pool.lend(None, ""):

        def wait() -> None:
            try:
                backend.elaborate("", ["x"])
            except VerifierError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        backend.close()
        thread.join(30)
    assert len(raised) == 1
    with pytest.raises(VerifierError, match="closed"):
        ProofChecker(backend).check(Theorem(header="", statement="theorem t : True"), "trivial", STANDARD)


def test_one_header_serves_inside_the_real_sandbox(tmp_path: Path) -> None:
    backend = repl_backend(write_table(tmp_path), sandbox="bubblewrap")
    assert [last(backend, answer) for answer in ("rfl", "DIE", "em_proof")] == [("axioms", True), ("kills_grader", False), ("axioms", True)]
    backend.close()
