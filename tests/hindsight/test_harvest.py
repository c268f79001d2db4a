"""The harvest: every rule by which a relabelled attempt is dropped or shortened, and the rows of what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flywheel.contracts import Engine, Sampling
from flywheel.errors import InfraError, NotRelabelledError
from flywheel.hindsight.harvest import MAX_PER_GROUP, Harvest
from flywheel.inference.chat import ChatFormat
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.types import Group, Task, Trajectory, Verdict
from tests.hindsight.attempts import CHAT, collected, harvested, recipe_of, said
from tests.hindsight.words import Pairs, Words, WordsVerifier, retold, word_task
from tests.scripted import ScriptedPolicy, call

RECIPE = recipe_of("tests.hindsight.words:Words")
SOURCE = TaskSource(RECIPE)
Make = Callable[[Task, Trajectory, Verdict], Pairs]


def number_of(split: str, letter: str, mood: str = "", after: int = 0) -> int:
    """Return a number that puts a task on a side of the split."""
    for number in range(after, after + 500):
        if (SOURCE.objection(word_task(letter, mood, number)) == "heldout") == (split == "heldout"):
            return number
    raise AssertionError


ASKED = word_task("q", number=number_of("train", "q"))
FAILED = [call("look"), call("submit", word="red")]
BARE = [call("submit", word="red")]
TRAIN = number_of("train", "r")


def kept(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
    return [retold(task, trajectory, "r", number=TRAIN)]


def harvest(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, *scripts: list[str], task: Task = ASKED, **learning: Any) -> Harvest:
    monkeypatch.setattr(Words, "make", staticmethod(make))
    recipe = recipe_of("tests.hindsight.words:Words", **learning)
    (found,) = harvested(recipe, [collected(recipe, ASKED, *(scripts or (FAILED,)))], folder)
    assert len(found.relabellings) == len(found.lessons) + sum(found.dropped.values())
    return found


# ------------------------------------------------------------ what is kept


def test_a_kept_attempt_keeps_the_ids_that_the_policy_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    group = collected(RECIPE, ASKED, FAILED)
    (found,) = harvested(RECIPE, [group], tmp_path)
    (lesson,) = found.lessons
    parent, made = group.experiences[0], lesson.experience
    assert (made.origin, made.verdict.outcome, made.task.parent_id, made.task.operator) == (
        "hindsight",
        "solved",
        ASKED.id,
        "hindsight:words",
    )
    assert made.group_id not in ("", parent.group_id)
    assert lesson.parent_ids == (parent.id,)
    assert lesson.predicted is not None
    look, submit = parent.trajectory.turns
    row = lesson.row
    assert (row.kind, row.behavior_logprobs, row.weight) == ("ce", None, 1.0)
    assert said(row.prompt_ids).count("begins with r.") == 1
    assert "begins with q" not in said(row.prompt_ids)
    assert row.completion_ids == (*look.completion_ids, *submit.prompt_ids, *submit.completion_ids)
    assert row.loss_mask == (1,) * len(look.completion_ids) + (0,) * len(submit.prompt_ids) + (1,) * len(submit.completion_ids)
    assert all(turn.behavior_logprobs is None for turn in made.trajectory.turns)
    assert found.shortened == {}
    assert [(r.parent_id, r.child_id, r.relabeller, r.kept) for r in found.relabellings] == [(parent.id, made.id, "words", True)]


def test_a_relabeller_may_ask_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own thread and event loop, while the engine lives in the harvest's; what it had sampled is counted."""

    class Asking:
        name = "words"
        policy: tuple[Engine, ChatFormat] | None = None

        def guided_by(self, engine: Engine, chat: ChatFormat) -> Asking:
            made = Asking()
            made.policy = engine, chat
            return made

        def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
            if self.policy is None:
                raise NotRelabelledError("nobody_to_ask")
            engine, chat = self.policy
            said = asyncio.run(engine.generate(chat.render_task("Which letter?", []), Sampling(max_tokens=8)))
            return [retold(task, trajectory, chat.tokenizer.decode(said.token_ids[:1]), number=TRAIN)]

    monkeypatch.setattr(Words, "relabellers", classmethod(lambda cls: (Asking(),)))
    group = collected(RECIPE, ASKED, FAILED)
    (alone,) = harvested(RECIPE, [group], tmp_path / "alone")
    assert (alone.dropped, alone.num_asked_tokens) == ({"nobody_to_ask": 1}, 0)
    policy = ScriptedPolicy(CHAT, lambda context: "r")
    (found,) = harvested(RECIPE, [group], tmp_path / "guided", engine=policy)
    assert [lesson.experience.task.payload["letter"] for lesson in found.lessons] == ["r"]
    assert found.num_asked_tokens == len(policy.asked[0].completion_ids) > 0
    assert found.figures()["learning/asked_tokens"] == found.num_asked_tokens


def test_ids_are_the_same_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = harvest(kept, tmp_path / "a", monkeypatch)
    again = harvest(kept, tmp_path / "b", monkeypatch)
    assert [x.experience.id for x in first.lessons] == [x.experience.id for x in again.lessons]
    assert [x.row for x in first.lessons] == [x.row for x in again.lessons]


def test_observations_that_differ_leave_the_final_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = number_of("train", "r", "tells")
    found = harvest(lambda task, path, _: [retold(task, path, "r", "tells", number)], tmp_path, monkeypatch)
    (lesson,) = found.lessons
    assert found.shortened == {"observations_differ": 1}
    assert said(lesson.row.completion_ids) == f"{call('submit', word='red')}<|im_end|>"
    assert set(lesson.row.loss_mask) == {1}
    assert [turn.observation for turn in lesson.experience.trajectory.turns] == ["said"]


def test_words_of_the_dropped_goal_leave_the_final_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinking = [f"Something with q then.{call('look')}", call("submit", word="red")]
    found = harvest(kept, tmp_path, monkeypatch, thinking)
    (lesson,) = found.lessons
    assert found.shortened == {"names_dropped_goal": 1}
    assert said(lesson.row.completion_ids) == f"{call('submit', word='red')}<|im_end|>"


# ------------------------------------------------------------ what is dropped


def drops(*, letter: str = "r", mood: str = "", number: int = TRAIN, **changes: Any) -> Make:
    def make(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        child, path = retold(task, trajectory, letter, mood, number)
        return [(dataclasses.replace(child, **changes), path)]

    return make


def raising(error: Exception) -> Make:
    def make(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        raise error

    return make


DROPPED: dict[str, Make] = {
    "not_solved": drops(letter="z", number=number_of("train", "z")),
    "heldout": drops(number=number_of("heldout", "r")),
    "not_deterministic": drops(mood="flaky", number=number_of("train", "r", "flaky")),
    "trivial_answer": drops(mood="any", number=number_of("train", "r", "any")),
    "not_derived": drops(parent_id=None),
    "unread": raising(NotRelabelledError("unread")),
    "infra_error": raising(InfraError("down")),
    "relabeller_bug": raising(KeyError("x")),
    "nothing": lambda *_: [],
    "environment_bug": drops(mood="bug", number=number_of("train", "r", "bug")),
    "no_end": lambda task, path, _: [
        retold(task, dataclasses.replace(path, turns=path.turns[:1], answer=None), "r", "open", number_of("train", "r", "open"))
    ],
}


@pytest.mark.parametrize("reason", DROPPED)
def test_every_rule_drops(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordsVerifier, "turns", itertools.count())
    found = harvest(DROPPED[reason], tmp_path, monkeypatch)
    assert found.lessons == ()
    assert found.dropped == {reason: 1}
    assert [(r.kept, r.reason) for r in found.relabellings] == [(False, reason)]


def test_a_relabeller_that_breaks_is_told_once_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(raising(KeyError("x"))))
    found = harvested(RECIPE, [collected(RECIPE, ASKED, FAILED)], tmp_path, steps=2)
    assert [harvest.dropped for harvest in found] == [{"relabeller_bug": 1}] * 2
    (said,) = (record.message for record in caplog.records if "hindsight: " in record.message)
    assert "of words raised KeyError: 'x' (test_harvest.py, line " in said


def test_a_split_that_the_relabeller_sets_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harvest(drops(split="heldout"), tmp_path, monkeypatch).dropped == {"not_derived": 1}


def test_what_the_policy_would_solve_anyway_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harvest(kept, tmp_path, monkeypatch, trivial_above=0.2).dropped == {"trivial": 1}


def test_the_answer_of_a_held_out_task_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = SOURCE.heldout("words", 4)[0]
    word = f"{held.payload['letter']}-heldout"
    letter, number = word[0], number_of("train", word[0])
    found = harvest(drops(letter=letter, number=number), tmp_path, monkeypatch, [call("submit", word=word.upper().swapcase())])
    assert found.dropped == {"heldout_answer": 1}


def test_a_contaminated_task_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    items = tmp_path / "benchmark.jsonl"
    items.write_text(f'{{"env": "words", "prompt": {word_task("r", number=TRAIN).prompt!r}, "payload": {{}}}}'.replace("'", '"') + "\n")
    recipe = recipe_of("tests.hindsight.words:Words")
    recipe = recipe.model_copy(update={"tasks": recipe.tasks.model_copy(update={"decontaminate": [items], "near_duplicate": 0.9})})
    (found,) = harvested(recipe, [collected(recipe, ASKED, FAILED)], tmp_path / "run")
    assert found.dropped in ({"contaminated": 1}, {"near_heldout": 1})


def test_a_prompt_can_not_end_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        child, path = retold(task, trajectory, "r", number=TRAIN)
        tasks = (dataclasses.replace(child, prompt=f"{child.prompt}<|im_end|>{at}") for at in range(40))
        return [(next(task for task in tasks if SOURCE.objection(task) is None), path)]

    assert harvest(make, tmp_path, monkeypatch).dropped == {"special_tokens": 1}


def test_only_what_is_new_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    first, second = harvested(RECIPE, [collected(RECIPE, ASKED, FAILED)], tmp_path, steps=2)
    assert (len(first.lessons), second.dropped) == (1, {"known": 1})


def test_a_task_that_the_run_has_drawn_is_not_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    groups = [collected(RECIPE, ASKED, FAILED), collected(RECIPE, word_task("r", number=TRAIN), BARE)]
    (found,) = harvested(RECIPE, groups, tmp_path)
    assert found.dropped == {"known": 1}


def test_a_group_gives_two_at_most_and_like_answers_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {word: number_of("train", "r", after=100 * at) for at, word in enumerate(("ra", "rb", "rc"))}
    make: Make = lambda task, path, _: [retold(task, path, "r", number=numbers[path.answer or ""])]  # noqa: E731
    scripts = [[call("submit", word=word)] for word in ("ra", "ra", "rb", "rc")]
    found = harvest(make, tmp_path, monkeypatch, *scripts)
    assert len(found.lessons) == MAX_PER_GROUP
    assert found.dropped == {"group_cap": 1}


def test_the_share_caps_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def make(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        asked.append(trajectory.answer or "")
        return kept(task, trajectory, verdict)

    scripts = [[call("submit", word=f"r{at}")] for at in range(8)]
    harvest(make, tmp_path, monkeypatch, *scripts, hindsight_share=0.125)
    assert len(asked) == 1
    assert harvest(make, tmp_path / "none", monkeypatch, *scripts, hindsight_share=0.0).relabellings == ()


@pytest.mark.parametrize("word", ["cheat", "kill"])
def test_attacks_are_never_relabelled(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert harvest(kept, tmp_path, monkeypatch, [call("submit", word=word)]).relabellings == ()


def test_held_out_attempts_and_broken_ones_are_never_relabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    group = collected(RECIPE, ASKED, FAILED)
    (e,) = group.experiences
    held = dataclasses.replace(ASKED, split="heldout")
    others = [
        dataclasses.replace(e, id="held", task=held),
        dataclasses.replace(e, id="broken", verdict=dataclasses.replace(e.verdict, outcome="infra_error")),
        dataclasses.replace(e, id="solved", verdict=dataclasses.replace(e.verdict, outcome="solved")),
    ]
    for number, other in enumerate(others):
        whole = Group(id=group.id, task=other.task, experiences=(other,))
        assert harvested(RECIPE, [whole], tmp_path / str(number))[0].relabellings == ()


def test_a_truncated_attempt_is_closed_by_a_rendered_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action = '{"name": "submit", "arguments": {"word": "red"}}'

    def make(task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        child, path = kept(task, trajectory, verdict)[0]
        closing = dataclasses.replace(path.turns[-1], prompt_ids=(), completion_ids=(), text=action, tool_calls=())
        return [(child, dataclasses.replace(path, turns=(*path.turns, closing)))]

    found = harvest(make, tmp_path, monkeypatch, [call("look")] * 4)
    (lesson,) = found.lessons
    assert found.shortened == {}
    assert lesson.row.completion_ids[-len(CHAT.render_action(action)) :] == CHAT.render_action(action)
    assert said(lesson.row.completion_ids).count("it begins with something") == 4


def test_rows_that_are_too_long_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "make", staticmethod(kept))
    short = RECIPE.model_copy(update={"engine": RECIPE.engine.model_copy(update={"max_model_len": 40})})
    (found,) = harvested(short, [collected(RECIPE, ASKED, FAILED)], tmp_path)
    assert found.dropped == {"too_long": 1}


def test_lessons_can_be_journalled_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = harvest(kept, tmp_path / "run", monkeypatch)
    with contextlib.closing(Journal(tmp_path / "other")) as journal:
        journal.append_experiences([lesson.experience for lesson in found.lessons], step=1)
        journal.append_relabellings(found.relabellings, step=1)
        assert [journal.experience(x.experience.id) for x in found.lessons] == [x.experience for x in found.lessons]
