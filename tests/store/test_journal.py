import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.errors import StoreError
from flywheel.store.journal import Journal
from flywheel.types import Batch, Check, Experience, Row, Task, ToolCall, Trajectory, Turn, Verdict

TASK = Task.create(env="toy", family="toy", prompt="∀ x, 猫?", payload={"hidden": [1, 2]}, params={"n": 3}, seed=7)


def experience() -> Experience:
    call = ToolCall(name="submit", arguments={"code": "x\n"})
    turn = Turn(
        prompt_ids=(1, 2),
        completion_ids=(3,),
        behavior_logprobs=(-0.123456789012345,),
        policy_version="1.0",
        text="<x>",
        tool_calls=(call,),
        observation="ok",
    )
    verdict = Verdict(
        outcome="solved", reward=1.0, checks=(Check(name="c", passed=True),), evidence="e", verifier="v", verifier_version="1"
    )
    trajectory = Trajectory(task_id=TASK.id, turns=(turn,), stop_reason="terminated", answer="x\n", env_return=1.0, seed=9)
    return Experience(id="e0", group_id="g0", task=TASK, trajectory=trajectory, verdict=verdict, origin="on_policy")


def row(advantage: float) -> Row:
    return Row(
        experience_id="e0",
        kind="grpo",
        prompt_ids=(1, 2),
        completion_ids=(3,),
        loss_mask=(1,),
        behavior_logprobs=(-0.1,),
        advantage=advantage,
    )


def test_an_experience_comes_back_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append_experiences([experience()], step=1)
    assert journal.experience("e0") == experience()
    journal.close()
    reopened = Journal(tmp_path)
    assert reopened.experience("e0") == experience()
    reopened.close()


def test_the_newest_batch_of_a_step_is_the_one_that_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append_batch(Batch.create(1, (row(0.5),)))
    journal.append_batch(Batch.create(1, (row(0.25),)))
    found = journal.batch(1)
    assert found == Batch.create(1, (row(0.25),))
    assert found is not None
    assert found.num_grpo_tokens == 1
    assert journal.batch(2) is None
    journal.close()


def test_a_record_is_written_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.append("task", [("a", {"v": 1})], step=1)
    assert journal.append("task", [("a", {"v": 2})], step=2) == first
    assert journal.get("task", "a") == {"v": 1}
    journal.close()


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    code = f"from pathlib import Path; from flywheel.store.journal import Journal; Journal(Path({str(tmp_path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "another flywheel process is running this run" in other.stderr
    journal.close()


def test_what_is_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from flywheel.store.journal import Journal
journal = Journal(Path({str(tmp_path)!r}))
for i in range(1000):
    journal.append("step", [(str(i), {{"i": i}})], step=i)
    print(i, flush=True)
    if i == 40:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    acknowledged = [int(line) for line in killed.stdout.split()]
    journal = Journal(tmp_path)
    assert [r["i"] for r in journal.select("step")] == acknowledged == list(range(41))
    journal.close()


def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Journal(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal._db.execute("PRAGMA user_version=99")
    journal.close()
    for _ in range(2):  # and the refusal does not keep the run
        with pytest.raises(StoreError, match="schema version 99"):
            Journal(tmp_path)
