import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from flywheel.errors import InfraError, SandboxError
from flywheel.judge import judge, judge_many
from flywheel.types import Check, Task, Trajectory, Verdict, to_json
from flywheel.verifiers.env_reward import EnvRewardVerifier

TASK = Task.create(env="toy", family="toy", prompt="p", payload={})
ATTEMPT = Trajectory(task_id=TASK.id, turns=(), stop_reason="terminated", answer="a")
SOLVED = Verdict(outcome="solved", reward=1.0, checks=(Check(name="ok", passed=True),), evidence="", verifier="v", verifier_version="1")


class Scripted:
    """Plays one act a call: raises it, or returns it."""

    name = "scripted"
    version = "7"

    def __init__(self, *acts: object) -> None:
        self.acts = list(acts)
        self.calls = 0

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        act = self.acts[min(self.calls, len(self.acts) - 1)]
        self.calls += 1
        if isinstance(act, BaseException):
            raise act
        return act  # type: ignore[return-value]

    def close(self) -> None:
        pass


def run(*acts: object, max_retries: int = 2) -> tuple[Verdict, int]:
    verifier = Scripted(*acts)
    return judge(verifier, TASK, ATTEMPT, max_retries=max_retries, backoff_s=0), verifier.calls


def test_a_verdict_passes_with_its_duration() -> None:
    verdict, calls = run(dataclasses.replace(SOLVED, duration_s=99.0))
    assert dataclasses.replace(verdict, duration_s=0.0) == SOLVED
    assert 0 <= verdict.duration_s < 1
    assert calls == 1


def test_infrastructure_is_retried_and_a_later_verdict_counts() -> None:
    verdict, calls = run(SandboxError("worker died"), InfraError("again"), SOLVED)
    assert verdict.outcome == "solved"
    assert calls == 3


def test_infrastructure_that_stays_broken_is_nobodys_fault() -> None:
    verdict, calls = run(SandboxError("worker died"), max_retries=1)
    assert (verdict.outcome, verdict.reward, calls) == ("infra_error", 0.0, 2)
    assert verdict.checks == (Check(name="infrastructure", passed=False, detail="SandboxError: worker died"),)
    assert (verdict.verifier, verdict.verifier_version) == ("scripted", "7")
    assert "worker died" in verdict.evidence


@pytest.mark.parametrize("bug", [KeyError("tests"), RecursionError(), MemoryError(), AssertionError("x"), "no verdict", None])
def test_a_verifiers_bug_costs_one_attempt_and_not_the_run(bug: object) -> None:
    verdict, calls = run(bug)
    assert (verdict.outcome, verdict.reward, calls) == ("infra_error", 0.0, 3)
    assert verdict.checks[0].name == "verifier_bug"


def test_a_malformed_task_is_told_apart_and_not_retried() -> None:
    verdict, calls = run(ValueError("payload has no tests"))
    assert (verdict.outcome, verdict.checks[0].name, calls) == ("infra_error", "malformed_task", 1)
    with pytest.raises(ValueError, match="payload has no tests"):
        judge(Scripted(ValueError("payload has no tests")), TASK, ATTEMPT, raise_malformed=True)


def test_an_answer_that_can_not_be_encoded_does_not_blame_the_task() -> None:
    error = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    verdict = judge(Scripted(error), TASK, ATTEMPT, backoff_s=0, raise_malformed=True)
    assert verdict.checks[0].name == "verifier_bug"


@pytest.mark.parametrize(
    "broken",
    [
        {"reward": 0.5},
        {"reward": float("nan")},
        {"outcome": "failed", "reward": 0.6},
        {"outcome": "failed", "reward": -0.1},
        {"outcome": "tampered", "reward": float("nan")},
        {"outcome": "won"},
    ],
)
def test_a_verdict_outside_the_contract_is_not_used(broken: dict[str, object]) -> None:
    verdict, _ = run(dataclasses.replace(SOLVED, **broken))  # type: ignore[arg-type]
    assert (verdict.outcome, verdict.reward, verdict.checks[0].name) == ("infra_error", 0.0, "verifier_bug")


def test_an_infra_error_returned_is_an_infra_error_raised() -> None:
    lazy = dataclasses.replace(SOLVED, outcome="infra_error", reward=0.0, evidence="pool empty")
    assert run(lazy, SOLVED)[0].outcome == "solved"
    assert run(lazy)[0].evidence == "no verdict (infrastructure): pool empty"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_interrupts_go_through(stop: Callable[[], BaseException]) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(stop())


@pytest.mark.parametrize(
    ("env_return", "outcome", "check"),
    [
        (1.0, "solved", "env_return"),
        (2.5, "solved", "env_return"),
        (0.999, "failed", "env_return"),
        (-1.0, "failed", "env_return"),
        (None, "failed", "no_answer"),
        (float("nan"), "failed", "env_return"),
        (float("inf"), "failed", "env_return"),
    ],
)
def test_env_reward(env_return: float | None, outcome: str, check: str) -> None:
    verdict = EnvRewardVerifier(1.0).verify(TASK, dataclasses.replace(ATTEMPT, env_return=env_return))
    assert (verdict.outcome, verdict.reward) == (outcome, 1.0 if outcome == "solved" else 0.0)
    assert verdict.checks[0].name == check
    assert "trusts the environment" in verdict.evidence


def test_env_reward_needs_a_finite_threshold() -> None:
    with pytest.raises(ValueError, match="finite"):
        EnvRewardVerifier(float("nan"))


class ManyAtOnce(Scripted):
    """Its ``verify_many`` plays one act, too."""

    def __init__(self, together: object, *alone: object) -> None:
        super().__init__(*alone)
        self.together = together

    def verify_many(self, pairs: Sequence[tuple[Task, Trajectory]]) -> list[Verdict]:
        if isinstance(self.together, BaseException):
            raise self.together
        return self.together  # type: ignore[return-value]


FAILED = dataclasses.replace(SOLVED, outcome="failed", reward=0.0)
PAIRS = [(TASK, ATTEMPT), (TASK, ATTEMPT)]


def test_many_are_judged_by_one_call() -> None:
    verifier = ManyAtOnce([SOLVED, FAILED], SandboxError("never asked"))
    assert judge_many(verifier, PAIRS) == [SOLVED, FAILED]
    assert verifier.calls == 0


@pytest.mark.parametrize("together", [InfraError("worker died"), KeyError("a bug"), [SOLVED], [None, None], None])
def test_what_goes_wrong_together_is_judged_alone(together: object) -> None:
    verifier = ManyAtOnce(together, FAILED)
    assert [v.outcome for v in judge_many(verifier, PAIRS) if isinstance(v, Verdict)] == ["failed", "failed"]
    assert verifier.calls == 2


def test_only_the_attempt_that_has_no_verdict_is_judged_again() -> None:
    broken = dataclasses.replace(SOLVED, outcome="infra_error", reward=0.0, evidence="worker died")
    verifier = ManyAtOnce([broken, SOLVED], FAILED)
    assert [v.outcome for v in judge_many(verifier, PAIRS) if isinstance(v, Verdict)] == ["failed", "solved"]
    assert verifier.calls == 1


def test_a_malformed_task_among_many_stands_in_its_place() -> None:
    verifier = ManyAtOnce(ValueError("payload"), ValueError("payload"), SOLVED)
    first, second = judge_many(verifier, PAIRS, raise_malformed=True)
    assert isinstance(first, ValueError)
    assert isinstance(second, Verdict)
    assert second.outcome == "solved"


def test_a_verifier_without_it_judges_one_by_one() -> None:
    verifier = Scripted(SOLVED, FAILED)
    assert [v.outcome for v in judge_many(verifier, PAIRS) if isinstance(v, Verdict)] == ["solved", "failed"]


def test_a_verdict_in_other_types_is_written_in_its_own() -> None:
    # What numpy's comparisons give, a list, nothing and a number: what a plug-in's author may write without noticing.
    fields: Any = {"reward": np.float32(1.0), "checks": [Check(name="a", passed=cast("bool", np.bool_(True)))]}
    odd = dataclasses.replace(SOLVED, **fields, evidence=cast("str", None), verifier_version=cast("str", 2))
    for found in (judge(Scripted(odd), TASK, ATTEMPT), judge_many(ManyAtOnce([odd, odd]), PAIRS)[0]):
        assert isinstance(found, Verdict)
        assert Verdict.from_json(json.loads(to_json(found))) == found
        assert found.reward == 1.0
        assert found.checks == (Check(name="a", passed=True),)


def test_checks_that_are_none_are_a_bug() -> None:
    odd = dataclasses.replace(SOLVED, checks=cast("Any", (("a", True),)))
    found = judge(Scripted(odd), TASK, ATTEMPT, max_retries=0)
    assert (found.outcome, found.checks[0].name) == ("infra_error", "verifier_bug")
    assert "checks has ('a', True)" in found.evidence
