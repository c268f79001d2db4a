"""The audit finds what was planted, and nothing in a sound run."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flywheel.audit.__main__ import audit, main
from flywheel.audit.findings import Finding
from flywheel.config import Recipe
from flywheel.recipe import to_toml
from flywheel.router import grpo_row
from flywheel.sandbox import close_shared
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.tasks.source import TaskSource
from flywheel.types import Batch, Experience, Task, Verdict
from tests.audit.letters import LETTERS, LettersVerifier
from tests.store.attempts import make_experience

RECIPE = Recipe.model_validate(
    {"environments": {"letters": {"use": "tests.audit.letters:Letters"}}, "evaluation": {"tasks_per_environment": 20}}
)
STEPS, GROUPS, SIZE = 12, 4, 4
Edit = Callable[[int, Experience], Experience]


def unchanged(step: int, experience: Experience) -> Experience:
    return experience


def attempt(task: Task, sibling: int, *, solved: bool) -> Experience:
    letter = str(task.payload["letter"])
    said = letter if solved else next(other for other in LETTERS if other != letter)
    made = make_experience(task, sibling, answer=said, outcome="solved" if solved else "failed")
    return dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, verifier="letters", verifier_version="1"))


def write_run(
    folder: Path, edit: Edit = unchanged, extra: list[Task] | None = None, lengths: Callable[[int], float] = lambda step: 20.0
) -> Path:
    """Write a run in which a little more is solved at each step; `edit` may falsify attempts, `extra` tasks train in step 1."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(to_toml(RECIPE))
    source, rng = TaskSource(RECIPE), random.Random(0)
    journal = Journal(folder)
    journal.begin_attempt({}, after_step=0)
    lines = []
    for step in range(1, STEPS + 1):
        tasks = [source.train(GROUPS * step + at) for at in range(GROUPS)] + (extra or [] if step == 1 else [])
        attempts = [edit(step, attempt(task, n, solved=rng.random() < 0.4 + step / 40)) for task in tasks for n in range(SIZE)]
        journal.append_experiences(attempts, step=step)
        journal.append_batch(Batch.create(step, tuple(grpo_row(e, 0.5) for e in attempts)))
        lines.append(json.dumps({"step": step, "length/completion_mean": lengths(step)}))
    for step in (0, STEPS):
        solved = 4 if step == 0 else 12
        scores = [
            {"task_id": str(n), "env": "letters", "family": "letters", "num_samples": 1, "num_solved": int(n < solved)} for n in range(20)
        ]
        journal.append("evaluation", [(str(step), {"step": step, "policy_version": "1.0", "num_masked": 0, "scores": scores})], step=step)
    journal.close()
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def found(run: Path, name: str, **options: object) -> Finding:
    (finding,) = [f for f in audit(run, sample=None, **options) if f.name == name]  # type: ignore[arg-type]
    return finding


def as_solved(experience: Experience) -> Experience:
    """Return the attempt as a verifier would have it that was talked round."""
    verdict: Verdict = dataclasses.replace(experience.verdict, outcome="solved", reward=1.0)
    return dataclasses.replace(experience, verdict=verdict)


def test_a_sound_run_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "out.json").write_text("earlier findings")
    (tmp_path / "earlier.json").hardlink_to(tmp_path / "out.json")
    assert main([str(run), "--strict", "--json", str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "earlier.json").read_text() == "earlier findings"  # the new ones took their place by a rename
    said = capsys.readouterr().out
    assert "192 of 192 verdicts that trained are the same again" in said
    assert said.splitlines()[-1].startswith("0 failed, 0 warnings")
    assert {f["level"] for f in json.loads((tmp_path / "out.json").read_text())} == {"ok"}
    assert "50 of 50" in next(f.text for f in audit(run, sample=50) if f.name == "re-verified")


def test_a_verdict_that_does_not_hold_fails_and_is_named(tmp_path: Path) -> None:
    forged: list[str] = []

    def forge(step: int, experience: Experience) -> Experience:
        if step == 5 and experience.verdict.outcome == "failed" and not forged:
            forged.append(experience.id)
            return as_solved(experience)
        return experience

    run = write_run(tmp_path / "run", forge)
    finding = found(run, "re-verified")
    assert (finding.level, finding.ids) == ("fail", tuple(forged))
    assert "1 × solved → failed (letters/letters)" in finding.text
    assert main([str(run), "--all"]) == 1
    assert found(run, "re-verified", max_flaky=0.01).level == "warn"
    assert (main([str(run), "--all", "--max-flaky", "0.01"]), main([str(run), "--all", "--max-flaky", "0.01", "--strict"])) == (0, 1)


def test_flaky_verdicts_are_told_apart_from_changed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setattr(LettersVerifier, "flaky", random.Random(0))
    finding = found(run, "re-verified")
    assert finding.level == "fail"
    assert "changed once more at a third look" in finding.text


def test_another_version_of_the_verifier_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    monkeypatch.setattr(LettersVerifier, "version", "2")
    finding = found(run, "verifier version")
    assert (finding.level, finding.text) == ("warn", "192 attempts at letters were judged by letters 1, and the verifier is letters 2 now")
    assert (main([str(run)]), main([str(run), "--strict"])) == (0, 1)


def test_planted_duplicates_of_held_out_tasks_are_found(tmp_path: Path) -> None:
    held = TaskSource(RECIPE).heldout("letters", 20)
    same = Task.create(env="letters", family="letters", prompt=held[0].prompt, payload=held[0].payload, seed=99)  # another id, the same key
    alike = Task.create(env="letters", family="other", prompt=f"  {held[1].prompt.upper()}", payload=held[1].payload)
    run = write_run(tmp_path / "run", extra=[same, alike, dataclasses.replace(held[2])])
    leaks = {f.text: f for f in audit(run, sample=None) if f.name in ("train and held-out", "split")}
    by_level = {(f.level, frozenset(f.ids)) for f in leaks.values()}
    assert by_level == {("fail", frozenset({held[2].id})), ("fail", frozenset({same.id, held[2].id})), ("warn", frozenset({alike.id}))}
    assert main([str(run)]) == 1


def test_of_a_collect_stage_what_was_kept_is_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "collected"
    run.mkdir()
    (run / "recipe.toml").write_text(to_toml(RECIPE))
    source = TaskSource(RECIPE)
    tasks = [*(source.train(at) for at in range(3)), source.heldout("letters", 20)[0]]
    with Journal(run) as journal:
        journal.append_experiences([as_solved(attempt(task, n, solved=n == 0)) for task in tasks for n in range(2)], step=1)
        routes = [attempt(task, n, solved=n == 0).id for task in tasks for n in range(2)]
        kept = [routes[0], routes[2], routes[5], routes[6]]  # one that does not solve its task, and one at a held-out task
        bodies = [{"experience_id": i, "destination": "distill" if i in kept else "no_signal", "reason": "solved"} for i in routes]
        journal.append("route", [(body["experience_id"], body) for body in bodies], step=1)
    assert found(run, "re-verified").ids == (routes[5],)
    assert found(run, "split").ids == (tasks[3].id,)
    assert main([str(run)]) == 1
    said = capsys.readouterr().out
    assert "3 of 4 verdicts that were kept to train on are the same again" in said
    assert "1 tasks that were kept to train on are held-out tasks" in said


def test_reward_that_rises_only_on_record_is_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step, e: as_solved(e) if step > 8 else e)
    assert found(run, "reward, re-judged").level == "fail"


def test_signs_of_a_hack(tmp_path: Path) -> None:
    def hack(step: int, experience: Experience) -> Experience:
        trajectory = dataclasses.replace(experience.trajectory, answer="the magic words")
        tampered = dataclasses.replace(experience.verdict, outcome="tampered", reward=0.0)
        if step == 3:
            return dataclasses.replace(experience, verdict=tampered)
        return as_solved(dataclasses.replace(experience, trajectory=trajectory)) if step > 9 else experience

    run = write_run(tmp_path / "run", hack, lengths=lambda step: 20.0 if step < 6 else 5.0)
    levels = {f.name: f for f in audit(run, sample=None)}
    assert levels["tampered"].level == "fail"
    assert len(levels["tampered"].ids) == GROUPS * SIZE
    assert levels["length"].text == "around step 6 the mean length of an attempt went from 20 to 5 tokens"
    assert levels["same answer"].level == "warn"
    assert "the magic words" in levels["same answer"].text


def saying(experience: Experience, text: str) -> Experience:
    turns = tuple(dataclasses.replace(turn, text=text) for turn in experience.trajectory.turns)
    return dataclasses.replace(experience, trajectory=dataclasses.replace(experience.trajectory, turns=turns))


def test_texts_that_suddenly_say_the_same_are_found_whatever_they_answer(tmp_path: Path) -> None:
    def speak(step: int, experience: Experience) -> Experience:
        letter = experience.trajectory.answer or ""
        own = " ".join(f"{letter}{experience.task.seed % 97 + at}" for at in range(20))
        return saying(experience, own if step < 6 else f"as everybody knows the grader likes this very phrase {letter}")

    finding = found(write_run(tmp_path / "run", speak), "phrases")
    assert (finding.level, finding.text.split(" came to ")[0]) == ("warn", "letters: around step 6 attempts at different tasks")


def test_answers_that_lose_their_variety_are_found(tmp_path: Path) -> None:
    def narrow(step: int, experience: Experience) -> Experience:
        said = "the only words" if step > 9 else f"words of {experience.id}"
        return dataclasses.replace(experience, trajectory=dataclasses.replace(experience.trajectory, answer=said))

    finding = found(write_run(tmp_path / "run", narrow), "variety")
    assert (finding.level, finding.text) == ("warn", "letters: the share of answers that are distinct went from 1.00 to 0.03")


def test_what_the_store_has_dropped_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    journal = Journal(run)
    for step in (4, STEPS):
        journal.compact(up_to_step=step)
    journal.drop_oldest(max_bytes=0, before_step=5)
    journal.close()
    finding = found(run, "re-verified")
    assert (finding.level, finding.text) == ("ok", "128 of 128 verdicts that trained are the same again")


def test_a_rise_that_held_out_tasks_do_not_share_is_a_warning(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", lambda step, e: as_solved(e) if step > 9 else e)
    journal = Journal(run)
    flat: Any = journal.get("evaluation", "0")
    journal.append("evaluation", [("99", {**flat, "step": 99})], step=99)
    journal.close()
    assert found(run, "reward, held-out").level == "warn"


def test_a_damaged_store_fails_at_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    journal = Journal(run)
    journal.compact(up_to_step=STEPS)
    journal.close()
    shard = next((run / "store").glob("experience-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-7])
    assert [(f.level, f.name) for f in audit(run, sample=10)] == [("fail", "store")]


def test_agreement_can_raise_the_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    with Journal(run):  # the run goes on, which is said before anything is judged
        assert main([str(run), "--raise-tiers"]) == 2
    said = capsys.readouterr()
    assert (said.out, "another flywheel process is running this run" in said.err) == ("", True)
    assert main([str(run), "--sample", "10", "--raise-tiers"]) == 0
    with Reader.open(run) as reader:
        assert sum(info.tier == "L3" for info in reader.attempts()) >= 5  # repeated answers are among the ten, and rise as well


def test_what_can_not_be_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no journal" in capsys.readouterr().err
    Journal(tmp_path).close()
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path} holds no recipe.toml; is it a run's folder?" in capsys.readouterr().err
    assert main([str(tmp_path), "--json", str(tmp_path)]) == 2  # before anything is judged
    assert "expected the path of a file" in capsys.readouterr().err


def test_code_is_judged_again_in_a_real_sandbox(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"environments": {"code": {}}, "evaluation": {"tasks_per_environment": 5}, "sandbox": {"workers": 1}})
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    tests = [{"kind": "call", "args": [[2, 1]], "expected": [1, 2]}]
    payload = {"entry_point": "f", "public_tests": [], "hidden_tests": tests, "limits": {"wall_s": 5, "memory_mb": 256}}
    task = Task.create(env="code", family="sort", prompt="Sort.", payload=payload)
    answers = ["def f(xs):\n    return sorted(xs)\n", "def f(xs):\n    return xs\n"]
    made = [make_experience(task, n, answer=answer, outcome="solved") for n, answer in enumerate(answers)]
    made = [dataclasses.replace(e, verdict=dataclasses.replace(e.verdict, verifier="code", verifier_version="1")) for e in made]
    journal = Journal(tmp_path)
    journal.append_experiences(made, step=1)
    journal.append_batch(Batch.create(1, tuple(grpo_row(e, 1.0) for e in made)))
    journal.close()
    try:
        finding = found(tmp_path, "re-verified")
    finally:
        close_shared()
    assert (finding.level, finding.ids) == ("fail", (made[1].id,))
