"""What is exported and what never is: hand-made attempts in a real store, every shape and every kind of file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from flywheel.config import Recipe
from flywheel.errors import ConfigError
from flywheel.export.command import main
from flywheel.export.conversation import Conversations, find_chat
from flywheel.export.files import check_out, write_rows
from flywheel.export.make import export
from flywheel.export.rows import FEATURES, paired
from flywheel.export.selection import Selection, select
from flywheel.inference.chat import load_tokenizer
from flywheel.run_folder import RunFolder
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.types import Experience, Outcome, Split, Task, ToolCall, Trajectory, Turn
from tests.scripted import make_chat
from tests.store.attempts import make_batch, make_experience, make_group, make_task

CANARY = "CANARY-c0ffee"


def attempt(number: int, sibling: int, outcome: Outcome = "solved", *, answer: str | None = None, split: Split = "train") -> Experience:
    return make_experience(make_task(number, split=split), sibling, outcome=outcome, answer=answer)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with: a mixed group that trained, a held-out task, a repeated answer, and what must never be exported."""
    folder = tmp_path / "run"
    journal = Journal(folder)
    mixed = make_group(1, 4)  # siblings 1 and 3 are solved
    journal.append_groups([mixed], step=1)
    journal.append_batch(make_batch(1, [mixed]))
    others = [
        attempt(2, 0, answer="same"),
        attempt(2, 1, answer="same"),
        attempt(2, 2, "tampered"),
        attempt(2, 3, "infra_error"),
        attempt(2, 4, "truncated"),
        attempt(4, 0, split="heldout"),
    ]
    journal.append_experiences(others, step=2)
    routes = [(others[0], "distill"), (others[1], "replay")]
    journal.append("route", [(e.id, {"experience_id": e.id, "destination": where, "reason": "kept"}) for e, where in routes], step=2)
    journal.close()
    return folder


def exported(run: Path, selection: Selection | None = None, *, form: Any = "tokens", **options: Any) -> list[dict[str, Any]]:
    out = run.parent / "out.jsonl"
    export(run, out, selection or Selection(), form=form, **options)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    out.unlink(missing_ok=True)
    return rows


def test_a_checkpoint_that_a_run_removes_in_the_meantime_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, read = make_chat(), []
    for place in ("checkpoints/step-1", "weights/even"):
        chat.tokenizer.save_pretrained(tmp_path / place)

    def load(place: Path) -> Any:
        read.append(place.name)
        if place.name == "step-1":
            shutil.rmtree(place)
        return load_tokenizer(place)

    monkeypatch.setattr("flywheel.export.conversation.load_tokenizer", load)
    found = find_chat(tmp_path, Recipe.model_validate({"environments": {"code": {}}}))
    assert read == ["step-1", "even"]
    assert found is not None
    assert found.tokenizer.get_vocab() == chat.tokenizer.get_vocab()


def test_by_default_each_solved_answer_to_a_training_task_comes_once(run: Path) -> None:
    expected = [attempt(1, 1), attempt(1, 3), attempt(2, 0)]
    rows = exported(run)
    assert [row["experience_id"] for row in rows] == [e.id for e in expected]
    assert [row["step"] for row in rows] == [1, 1, 2]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(duplicates=True, steps=(2, 2)), [(2, 0), (2, 1)]),
        (Selection(trained=True), [(1, 1), (1, 3)]),
        (Selection(steps=(2, 9)), [(2, 0)]),
        (Selection(families=("family-2",)), [(2, 0)]),
        (Selection(families=("toy/family-1",)), [(1, 1), (1, 3)]),
        (Selection(envs=("elsewhere",)), []),
        (Selection(origins=("repair",)), []),
        (Selection(min_tier="L3"), []),
        (Selection(duplicates=True, min_tier="L2", steps=(2, 2)), [(2, 0)]),  # the repeated answer is of tier L0
        (Selection(routes=("distill",)), [(2, 0)]),
        (Selection(routes=("replay",)), [(2, 1)]),  # the first of its like has another route, so it can't stand for it
        (Selection(outcomes=("truncated",)), [(2, 4)]),
        (Selection(heldout=True, steps=(2, 2)), [(2, 0), (4, 0)]),
    ],
)
def test_filters(run: Path, selection: Selection, expected: list[tuple[int, int]]) -> None:
    ids = {attempt(number, sibling, split="heldout" if number == 4 else "train").id for number, sibling in expected}
    assert {row["experience_id"] for row in exported(run, selection)} == ids


def test_token_rows_train_what_the_policy_said_and_nothing_else(run: Path) -> None:
    row = exported(run)[0]
    first, second = attempt(1, 1).trajectory.turns
    assert row["input_ids"] == [*first.prompt_ids, *first.completion_ids, *second.prompt_ids, *second.completion_ids]
    assert row["labels"] == [-100] * 4 + list(first.completion_ids) + [-100] * 4 + list(second.completion_ids)
    about = {name: row[name] for name in ("task_id", "parent_id", "operator", "params", "run", "tier", "outcome", "policy_version")}
    assert about == {
        "task_id": make_task(1).id,
        "parent_id": None,
        "operator": "generate",
        "params": '{"size": 1}',
        "run": "run",
        "tier": "L2",
        "outcome": "solved",
        "policy_version": "1.0",
    }


def test_pairs_come_from_mixed_groups_and_are_capped(run: Path) -> None:
    rows = exported(run, kind="dpo")
    assert [(row["chosen_outcome"], row["rejected_outcome"]) for row in rows] == [("solved", "failed")] * 4
    used = [(row["chosen_experience_id"], row["rejected_experience_id"]) for row in rows]
    ids = [attempt(1, sibling).id for sibling in range(4)]
    assert used == [(ids[1], ids[0]), (ids[3], ids[2]), (ids[1], ids[2]), (ids[3], ids[0])]
    chosen = attempt(1, 1).trajectory.turns
    assert rows[0]["prompt_ids"] == list(chosen[0].prompt_ids)
    assert rows[0]["chosen_ids"] == [*chosen[0].completion_ids, *chosen[1].prompt_ids, *chosen[1].completion_ids]
    assert rows[0]["chosen_mask"] == [1] * 6 + [0] * 4 + [1] * 6
    assert len(exported(run, kind="dpo", pairs_per_task=1)) == 1


def test_an_answer_that_an_earlier_group_gave_still_pairs_with_its_siblings(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    said: list[tuple[Outcome, str]] = [
        ("failed", "no"),
        ("failed", "no"),
        ("failed", "no"),
        ("solved", "yes"),
        ("failed", "no"),
        ("solved", "yes"),
    ]
    attempts = [replace(attempt(1, n, outcome, answer=answer), group_id=f"group {n // 2}") for n, (outcome, answer) in enumerate(said)]
    for step in range(3):
        journal.append_experiences(attempts[2 * step : 2 * step + 2], step=step + 1)
    journal.close()
    (row,) = exported(tmp_path / "run", kind="dpo")  # the third group says what the second one did
    assert (row["chosen_experience_id"], row["rejected_experience_id"]) == (attempts[3].id, attempts[2].id)
    assert [row["step"] for row in exported(tmp_path / "run")] == [2]
    assert len(exported(tmp_path / "run", Selection(duplicates=True), kind="dpo")) == 2


def test_every_pair_comes_once_and_attempts_are_spread() -> None:
    solved: Any = ["s0", "s1"]
    failed: Any = ["f0", "f1", "f2"]
    pairs = list(paired(solved, failed))
    assert len(set(pairs)) == len(pairs) == 6
    assert {right for _, right in pairs[:3]} == set(failed)
    assert all(left.startswith("s") for left, _ in pairs)  # type: ignore[attr-defined]
    assert list(paired([], failed)) == []


def test_a_failure_that_killed_its_grader_is_never_exported(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    plain = attempt(1, 0, "failed")
    killer = replace(plain.verdict, checks=(replace(plain.verdict.checks[0], name="kills_grader"),))
    journal.append_experiences([replace(plain, verdict=killer), attempt(1, 1)], step=1)
    journal.close()
    assert exported(tmp_path / "run", kind="dpo") == []
    assert exported(tmp_path / "run", Selection(outcomes=("failed",))) == []


@pytest.mark.parametrize("name", ["set.jsonl", "set.parquet", "set"])
def test_every_kind_of_file_reads_back_the_same(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(run.parent / "cache"))
    out = run.parent / "sets" / name
    done = export(run, out, Selection(), form="tokens")
    assert (done.num_rows, done.num_attempts, done.num_dropped, dict(done.skipped)) == (3, 3, 0, {})
    kind = {".jsonl": "json", ".parquet": "parquet"}.get(out.suffix)
    cache = str(run.parent / "cache")
    read = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=cache) if kind else datasets.load_from_disk(str(out))
    assert list(read) == exported(run)
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_sharded_attempts_are_exported_and_dropped_ones_counted(run: Path) -> None:
    before = exported(run)
    journal = Journal(run)
    journal.compact(up_to_step=1)
    assert exported(run) == before  # while the run goes on: its journal is open
    journal.drop_oldest(max_bytes=1, before_step=2)
    journal.close()
    done = export(run, run.parent / "out.jsonl", Selection(), form="tokens")
    assert (done.num_rows, done.num_dropped) == (1, 2)
    with pytest.raises(ConfigError, match=r"all 2 such attempts were dropped from the store, as store\.max_gb asked"):
        export(run, run.parent / "none.jsonl", Selection(steps=(1, 1)), form="tokens")


def test_the_order_does_not_depend_on_which_group_was_finished_first(tmp_path: Path) -> None:
    found = []
    for name, numbers in (("a", (1, 2, 3)), ("b", (3, 1, 2))):
        journal = Journal(tmp_path / name)
        for number in numbers:
            journal.append_groups([make_group(number)], step=1)
        journal.close()
        with Reader.open(tmp_path / name) as reader:
            found.append(select(reader, Selection()).found)
    assert found[0] == found[1]


def test_an_export_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    def broken() -> Any:
        yield {"input_ids": [1], "labels": [1], **dict.fromkeys(list(FEATURES["sft", "tokens"])[2:])}
        raise RuntimeError("the store went away")

    for name in ("set.jsonl", "set.parquet", "set"):
        out = tmp_path / name
        out.mkdir() if name == "set" else out.write_text("old")
        with pytest.raises(RuntimeError, match="went away"):
            write_rows(broken(), FEATURES["sft", "tokens"], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.jsonl", "set.parquet"]
    assert (tmp_path / "set.jsonl").read_text() == "old"


def test_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("old")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    with pytest.raises(ConfigError, match="is there already"):
        check_out(tmp_path / "a.jsonl", overwrite=False)
    check_out(tmp_path / "a.jsonl", overwrite=True)
    with pytest.raises(ConfigError, match=r"no such format '\.csv'; expected a name that ends in \.jsonl or \.parquet"):
        check_out(tmp_path / "a.csv", overwrite=False)
    with pytest.raises(ConfigError, match="its folder can't be made"):
        check_out(tmp_path / "a.jsonl" / "b.jsonl", overwrite=False)
    with pytest.raises(ConfigError, match="holds no data set, so it is not replaced"):
        check_out(tmp_path / "photos", overwrite=True)


# ---------------------------------------------------------------- conversations


def pick_task(split: Split = "train") -> Task:
    return Task.create(env="pick", family="pick", prompt="Pick 7.", payload={"letter": "b", "hidden": CANARY}, split=split)


def turn(text: str, calls: tuple[ToolCall, ...], observation: str | None, ids: tuple[int, ...] = ()) -> Turn:
    return Turn(
        prompt_ids=ids,
        completion_ids=ids,
        behavior_logprobs=None,
        policy_version="reference",
        text=text,
        tool_calls=calls,
        observation=observation,
    )


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A run with one solved attempt of three turns: a word, two calls at once, and the answer."""
    peek, submit = ToolCall(name="peek", arguments={}), ToolCall(name="submit", arguments={"letter": "b"})
    turns = (turn("hm \ud800", (), "no call"), turn("calls", (peek, peek), "first\nsecond"), turn("call", (submit,), "picked"))
    task = pick_task()
    trajectory = Trajectory(task_id=task.id, turns=turns, stop_reason="terminated", answer="b")
    journal = Journal(tmp_path / "run")
    journal.append_experiences([replace(attempt(1, 1), task=task, trajectory=trajectory, origin="demonstration")], step=1)
    journal.close()
    (tmp_path / "run" / "recipe.toml").write_text('[environments.pick]\nuse = "tests.pick_env:Pick"\n')
    return tmp_path / "run"


def test_a_conversation_is_what_was_seen_and_said(told: Path) -> None:
    (row,) = exported(told, form="messages")

    def call(name: str, **arguments: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "arguments": arguments}}

    assert row["messages"] == [
        {"role": "user", "content": "Pick 7."},
        {"role": "assistant", "content": "hm �"},
        {"role": "user", "content": "no call"},
        {"role": "assistant", "content": "", "tool_calls": [call("peek"), call("peek")]},
        {"role": "tool", "name": "peek", "content": "first"},
        {"role": "tool", "name": "peek", "content": "second"},
        {"role": "assistant", "content": "", "tool_calls": [call("submit", letter="b")]},
    ]
    (tool,) = json.loads(row["tools"])
    assert tool["function"]["name"] == "submit"
    assert CANARY not in json.dumps(row)
    assert exported(told) == []  # a reference that nobody tokenised has no token row


def test_what_no_policy_sampled_on_its_task_is_written_as_the_policy_would(told: Path) -> None:
    chat = make_chat()
    chat.tokenizer.save_pretrained(told / "policy")
    task = Task.create(env="pick", family="pick", prompt="Pick the letter that was picked.", payload={}, operator="hindsight:letter")
    action = '{"name": "submit", "arguments": {"letter": "b"}}'
    relabelled = turn(action, (ToolCall(name="submit", arguments={"letter": "b"}),), "picked")
    stale = replace(relabelled, prompt_ids=(1, 2, 3))  # of the prompt that it was sampled under
    trajectory = Trajectory(task_id=task.id, turns=(stale,), stop_reason="terminated", answer="b")
    journal = Journal(told)
    journal.append_experiences([replace(attempt(2, 1), task=task, trajectory=trajectory, origin="hindsight")], step=2)
    journal.close()
    (row,) = exported(told, Selection(origins=("hindsight",)))
    tools = Conversations(RunFolder.opened(told).recipe, chat).tools("pick")
    prompt, said = chat.render_task("Pick the letter that was picked.", tools), chat.render_action(action, tools)
    assert row["input_ids"] == [*prompt, *said]
    assert row["labels"] == [-100] * len(prompt) + list(said)


def test_a_repair_trains_what_mends_the_failure_and_nothing_before_it(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = make_chat()
    chat.tokenizer.save_pretrained(told / "policy")
    tools = Conversations(RunFolder.opened(told).recipe, chat).tools("pick")

    def submitted(letter: str, observation: str, sampled_on: tuple[int, ...] = ()) -> Turn:
        action = json.dumps({"name": "submit", "arguments": {"letter": letter}})
        ids = tuple(chat.render_action(action, tools)) if sampled_on else ()
        made = turn(action, (ToolCall(name="submit", arguments={"letter": letter}),), observation, ids)
        return replace(made, prompt_ids=sampled_on)

    task = pick_task()
    asked = tuple(chat.render_task(task.prompt, tools))
    failed, mended = submitted("c", "failed checks: letter", asked), submitted("b", "picked")
    mend_it = Task.create(env="pick", family="pick", prompt="Mend it.", payload={}, operator="repair", parent_id=task.id)
    journal = Journal(told)
    for of, turns in ((task, (failed, mended)), (mend_it, (mended,))):
        trajectory = Trajectory(task_id=of.id, turns=turns, stop_reason="terminated", answer="b")
        journal.append_experiences([replace(attempt(1, 1), id=f"of {of.id}", task=of, trajectory=trajectory, origin="repair")], step=2)
    journal.close()

    by_task = {row["task_id"]: row for row in exported(told, Selection(origins=("repair",)))}
    said = list(chat.render_action(mended.text, tools))
    feedback = list(chat.render_observation(["failed checks: letter"], after=failed.completion_ids, as_tool=True))
    assert by_task[task.id]["input_ids"] == [*asked, *failed.completion_ids, *feedback, *said]
    assert by_task[task.id]["labels"] == [-100] * len([*asked, *failed.completion_ids, *feedback]) + said
    assert by_task[mend_it.id]["labels"][-len(said) - 1 :] == [-100, *said]

    by_task = {row["task_id"]: row for row in exported(told, Selection(origins=("repair",)), form="messages")}
    roles = [(message["role"], message.get("weight")) for message in by_task[task.id]["messages"]]
    assert roles == [("user", None), ("assistant", 0), ("tool", None), ("assistant", None)]
    assert by_task[task.id]["messages"][2]["content"] == "failed checks: letter"
    assert [message.get("weight") for message in by_task[mend_it.id]["messages"]] == [None, None]
    assert main([str(told), str(told.parent / "set.jsonl"), "--origin", "repair"]) == 0
    assert "1 of them begin with a failure, told in messages with weight 0" in capsys.readouterr().out


def test_the_command_says_what_it_did_and_what_it_can_not_do(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told.parent / "set.parquet"
    assert main([str(told), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 1 rows of 1 attempts\n"
    refused = {
        (str(told), str(out)): (2, "is there already"),
        (str(told), "x.jsonl", "--family", "lists"): (1, "the store has: 1 solved demonstration of pick/pick (train)"),
        (str(told), "x.jsonl", "--kind", "dpo"): (1, "no group with a solved and a failed attempt"),
        (str(told / "nowhere"), "x.jsonl"): (1, "no journal; is"),
        (str(told), "x.jsonl", "--tokenizer", "nowhere"): (2, "--tokenizer nowhere: no tokenizer_config.json there"),
    }
    for words, (status, why) in refused.items():
        assert main(words) == status
        assert why in capsys.readouterr().err
    assert not Path("x.jsonl").exists()
    for bad in (["--steps", "last"], ["--pairs-per-task", "0"], ["--kind", "dpo", "--outcome", "failed"], ["--outcome", "tampered"]):
        with pytest.raises(SystemExit):
            main([str(told), "x.jsonl", *bad])
