"""Lineage both ways, superseded steps, tiers, snapshots, SQL, and files of version 1."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from flywheel.errors import StoreError
from flywheel.store.__main__ import main
from flywheel.store.journal import Journal, Relabelling
from flywheel.store.lineage import fate_of_task, made_step
from flywheel.store.reader import Reader
from flywheel.store.sql import VIEWS, ask
from flywheel.store.tiers import sample_supervised
from flywheel.types import Batch, Row, Task, to_json
from tests.store.attempts import make_batch, make_experience, make_group, make_task


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of two steps: two groups each, one attempt of step 1 relabelled into one that trains in step 2."""
    journal = Journal(tmp_path)
    journal.begin_attempt({"recipe": {}}, after_step=0)
    groups = {step: [make_group(10 * step + i) for i in range(2)] for step in (1, 2)}
    failed = groups[1][0].experiences[0]
    child_task = make_task(99, parent_id=failed.task.id)
    child = make_experience(child_task, 0, outcome="solved", origin="hindsight")
    for step, made in groups.items():
        journal.append_groups(made, step=step)
        also = {"also": ["hindsight"]} if step == 1 else {}  # a route of an older version has none
        routes = [(e.id, {"experience_id": e.id, "destination": "grpo", "reason": "contrast", **also}) for g in made for e in g.experiences]
        rows = make_batch(step, made).rows
        if step == 2:
            journal.append_experiences([child], step=2)
            relabelled = [
                Relabelling(parent_id=failed.id, child_id=child.id, relabeller="toy", kept=True, reason="it does that"),
                Relabelling(parent_id=failed.id, child_id="dropped", relabeller="toy", kept=False, reason="trivial"),
            ]
            journal.append_relabellings(relabelled, step=2)
            rows += (dataclasses.replace(rows[0], experience_id=child.id, kind="ce", advantage=0.0, weight=0.5),)
        lesson = {"source": "hindsight", "weight": 2.0, "maker": "toy", "predicted": 0.25}
        journal.append_batch(Batch.create(step, rows), routes, [(child.id, lesson)] if step == 2 else [])
        journal.append(
            "step", [(f"1.{step}", {"step": step, "policy_version": f"1.{step}", "metrics": {"loss": 0.5}, "checkpoint": None})], step=step
        )
    return journal


def test_which_experiences_made_a_step(journal: Journal) -> None:
    made = made_step(journal, 2)
    ids = [e.id for g in (make_group(20), make_group(21)) for e in g.experiences]
    assert [row.experience_id for row in made.rows][:8] == ids
    last = made.rows[-1]
    assert (last.kind, last.weight, last.attempt and last.attempt.origin, last.attempt and last.attempt.tier) == (
        "ce",
        0.5,
        "hindsight",
        "L3",
    )
    assert [(row.advantage, row.num_tokens) for row in made.rows[:2]] == [(-1.0, 12), (1.0, 12)]
    assert (made.versions, made.superseded) == (("1.2",), ())
    with pytest.raises(StoreError, match="no batch of step 3"):
        made_step(journal, 3)


def test_what_became_of_a_task(journal: Journal) -> None:
    task = make_task(10)
    fate = fate_of_task(journal, task.id)
    child = make_task(99, parent_id=task.id)
    assert (fate.task, fate.ancestors, fate.children) == (task, (), (child.id,))
    assert [len(f.uses) for f in fate.attempts] == [1, 1, 1, 1]
    first = fate.attempts[0]
    assert (first.destination, first.reason, first.uses[0].step, first.uses[0].advantage) == ("grpo", "contrast", 1, -1.0)
    assert first.also == ("hindsight",)
    assert fate_of_task(journal, make_task(20).id).attempts[0].also == ()
    (made,) = fate_of_task(journal, child.id).attempts
    assert (first.became, made.came_from) == ((made.attempt.id,), (first.attempt.id,))
    assert [(use.step, use.kind) for use in made.uses] == [(2, "ce")]
    assert fate_of_task(journal, child.id).ancestors == (task.id,)


def test_what_trained_before_a_lost_checkpoint_is_marked(journal: Journal) -> None:
    assert journal.begin_attempt({}, after_step=1) == 2
    assert journal.superseded() == {"1.2"}
    journal.append("step", [("2.2", {"step": 2})], step=2)
    made = made_step(journal, 2)
    assert (made.versions, made.superseded) == (("2.2",), ("1.2",))
    assert journal.begin_attempt({}, after_step=2) == 3
    assert journal.superseded() == {"1.2"}


def test_no_on_policy_attempt_trains_in_two_steps(journal: Journal) -> None:
    again = make_batch(3, [make_group(10)])
    before = journal.last_seq
    with pytest.raises(StoreError, match="trained in step 1 already"):
        journal.append_batch(again)
    assert journal.last_seq == before
    journal.append_batch(make_batch(3, [make_group(30)]))  # its attempts are not journalled: nothing is known against them
    as_ce = tuple(dataclasses.replace(row, kind="ce") for row in again.rows)
    journal.append_batch(Batch.create(4, as_ce))  # to imitate is another matter, and is counted
    assert journal.info(as_ce[0].experience_id).num_uses == 1


def test_tiers_follow_the_evidence(tmp_path: Path) -> None:
    journal, task = Journal(tmp_path), make_task(1)
    cases = {
        "L2": make_experience(task, 1),
        "L0": make_experience(task, 2, answer=f"{task.id} answer 1"),  # said already
        "L1": make_experience(task, 3, outcome="truncated"),
        "L3": make_experience(task, 4, outcome="solved", origin="repair"),
        "L4": make_experience(task, 5, outcome="solved", origin="demonstration"),
    }
    broken = make_experience(task, 6, outcome="infra_error")
    journal.append_experiences([*cases.values(), broken], step=1)
    assert {tier: journal.info(e.id).tier for tier, e in cases.items()} == {tier: tier for tier in cases}
    assert journal.info(broken.id).tier == "L0"
    journal.raise_tiers({cases["L2"].id: "L3", cases["L4"].id: "L3"}, why="judged again")
    assert [journal.info(cases[tier].id).tier for tier in ("L2", "L4")] == ["L3", "L4"]
    assert [record["experience_id"] for record in journal.select("tier")] == [cases["L2"].id]
    with ask(tmp_path) as db:
        assert db.sql("SELECT count(*) FROM experiences WHERE tier = 'L3'").fetchall() == [(2,)]
    journal.close()


def test_a_person_can_say_that_an_attempt_was_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal, attempt = Journal(tmp_path), make_experience(make_task(1), 1)
    journal.append_experiences([attempt], step=1)
    assert main([str(tmp_path), "--human-checked", attempt.id]) == 1
    assert "another flywheel process is running this run" in capsys.readouterr().err
    journal.close()
    assert main([str(tmp_path), "--human-checked", attempt.id, "other"]) == 1
    assert "no experience 'other'" in capsys.readouterr().err
    assert main([str(tmp_path), "--human-checked", attempt.id]) == 0
    with Reader.open(tmp_path) as reader:
        assert reader.info(attempt.id).tier == "L4"
        assert [record["why"] for record in reader.select("tier")] == ["a person checked it"]


def test_supervised_sampling_heeds_tiers_uses_and_the_split(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    tasks = [make_task(n) for n in range(400)]
    plain = [make_experience(task, 1) for task in tasks[:200]]
    proved = [make_experience(task, 1, outcome="solved", origin="repair") for task in tasks[200:]]
    held = make_experience(make_task(500, split="heldout"), 1)
    failed = make_experience(make_task(501), 0)
    journal.append_experiences([*plain, *proved, held, failed], step=1)
    whole = sample_supervised(journal, 10_000, seed=0)
    assert sorted(whole) == sorted(e.id for e in (*plain, *proved))
    few = [sample_supervised(journal, 60, seed=seed) for seed in range(20)]
    assert few[0] == sample_supervised(journal, 60, seed=0) != few[1]
    share = sum(e in {p.id for p in proved} for sample in few for e in sample) / (20 * 60)
    assert 0.6 < share < 0.73  # twice the chance of the equally many plain ones, a little less as they run out
    assert sample_supervised(journal, 5, seed=0, weights={"L4": 1.0}) == []
    row = Row(
        experience_id=plain[0].id, kind="ce", prompt_ids=(1,), completion_ids=(2,), loss_mask=(1,), behavior_logprobs=None, advantage=0.0
    )
    journal.append_batch(Batch.create(2, (row,)))
    assert plain[0].id not in sample_supervised(journal, 10_000, seed=0)
    assert plain[0].id in sample_supervised(journal, 10_000, seed=0, max_uses=2)
    journal.close()


def test_a_snapshot_is_found_by_the_number_that_it_covers(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for seq in (5, 20, 100):
        journal.append_snapshot("curriculum", {"at": seq}, seq=seq, step=1)
    found = {at: journal.snapshot("curriculum", at_seq=at) for at in (4, 5, 99)}
    assert {at: snapshot and snapshot.state for at, snapshot in found.items()} == {4: None, 5: {"at": 5}, 99: {"at": 20}}
    newest = journal.snapshot("curriculum")
    assert newest is not None
    assert newest.seq == 100
    assert journal.snapshot("bandit") is None
    journal.close()


def test_every_view_answers_before_and_after_compaction(journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answers() -> dict[str, list[object]]:
        with ask(tmp_path) as db:
            return {name: db.sql(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in VIEWS}

    before = answers()
    counts = {name: len(rows) for name, rows in before.items()}
    assert counts == {
        **{"tasks": 5, "experiences": 17, "turns": 34, "routes": 16, "batches": 2, "batch_rows": 17, "steps": 2},
        **{"lessons": 1, "relabellings": 2, "evaluations": 0, "attempts": 1},
    }
    journal.compact(up_to_step=1)
    assert answers() == before
    journal.compact(up_to_step=2)
    assert answers() == before
    with ask(tmp_path) as db:
        made = "SELECT count(*) FROM batch_rows b JOIN experiences e ON e.id = b.experience_id WHERE b.step = 2 AND e.outcome = 'solved'"
        assert db.sql(made).fetchall() == [(5,)]
        with pytest.raises(duckdb.Error):
            db.execute("DELETE FROM experiences")
    for words in (["SELECT count(*) AS n FROM routes", "--csv"], ["--csv", "SELECT count(*) AS n FROM routes"]):
        assert main([str(tmp_path), *words]) == 0
        assert capfd.readouterr().out.split() == ["n", "16"]
    assert main([str(tmp_path), "PIVOT experiences ON outcome USING count(*) GROUP BY env"]) == 0
    assert main([str(tmp_path), "SELECT nothing"]) == 1
    assert "nothing" in capfd.readouterr().err
    assert main([str(tmp_path)]) == 0  # the list of views
    assert "experiences   attempts and their verdicts" in capfd.readouterr().out
    assert main([str(tmp_path / "absent")]) == 1
    assert "no journal" in capfd.readouterr().err


def test_only_one_question_is_answered(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun.json").write_text("a run's own")
    for sql, got in {
        "COPY (SELECT 1) TO 'begun.json'": "COPY",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'begun.json'": "EXPLAIN",
        "ATTACH 'journal.sqlite' AS journal (TYPE sqlite)": "ATTACH",
        "SELECT 1; DROP VIEW tasks": "SELECT, DROP",
        " -- no question": "nothing",
    }.items():
        assert main([str(tmp_path), sql]) == 1
        assert f"error: got {got}, expected one SELECT" in capfd.readouterr().err
    assert (tmp_path / "begun.json").read_text() == "a run's own"


ENDLESS = """
import os, signal, sys, threading
from flywheel.store import __main__ as command
answer = command.answer

def answer_soon(db, sql):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    return answer(db, sql)

command.answer = answer_soon
command.main([sys.argv[1], "SELECT count(*) FROM range(1000000000000) a, range(100000000) b"])
"""


def test_ctrl_c_ends_a_question_without_end(journal: Journal, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDLESS, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_reader_that_has_seen_enough_is_no_fault(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main([str(tmp_path), "SELECT repeat('x', 100000)"]) == 1
        nobody.write("the end")  # what is still written goes nowhere, and says nothing
    assert capfd.readouterr().err == ""


def test_hostile_text_is_kept_exactly_and_asked_without_harm(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    hostile = "\ud800 \\ud800 \x00 '; DROP TABLE records; -- <script>"
    attempt = make_experience(make_task(1), 1, answer=hostile)
    journal.append_experiences([attempt], step=1)
    for _ in range(2):
        assert journal.experience(attempt.id) == attempt
        with ask(tmp_path) as db:
            ((answer,),) = db.sql("SELECT answer FROM experiences").fetchall()
        assert answer.startswith("\N{REPLACEMENT CHARACTER}")
        assert answer.endswith("<script>")
        journal.compact(up_to_step=1)
    journal.close()


def version_1(folder: Path, groups: int = 2) -> None:
    """Write a journal as version 1 did: one table, token arrays inside the JSON."""
    made = [make_group(i) for i in range(groups)]
    batch = make_batch(1, made)
    with closing(sqlite3.connect(folder / "journal.sqlite")) as db:
        db.execute(
            "CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, step INTEGER NOT NULL, "
            "body TEXT NOT NULL, UNIQUE (kind, id))"
        )
        old = [("task", g.task.id, to_json(g.task)) for g in made]
        names = ("id", "group_id", "trajectory", "verdict", "origin")
        flat = [(e, {"task_id": e.task.id, **{name: getattr(e, name) for name in names}}) for g in made for e in g.experiences]
        old += [("experience", e.id, to_json(data)) for e, data in flat]
        body = {name: value for name, value in json.loads(to_json(batch)).items() if name != "journal_seq"}
        old += [("batch", "1.0", json.dumps(body)), ("attempt", "1", '{"recipe":{}}')]
        db.executemany("INSERT INTO records (kind, id, step, body) VALUES (?, ?, 1, ?)", old)
        db.execute("PRAGMA user_version=1")
        db.commit()


def test_a_file_of_version_1_opens_and_goes_on(tmp_path: Path) -> None:
    version_1(tmp_path)
    untouched = (tmp_path / "journal.sqlite").read_bytes()
    groups = [make_group(0), make_group(1)]
    with Reader.open(tmp_path) as reader:  # reading migrates a copy in memory
        assert reader.groups(1) == groups
    assert (tmp_path / "journal.sqlite").read_bytes() == untouched
    journal = Journal(tmp_path)
    assert journal.query("PRAGMA user_version") == [(2,)]
    assert journal.groups(1) == groups
    assert journal.batch(1) == make_batch(1, groups)
    assert [row.advantage for row in made_step(journal, 1).rows] == [-1.0, 1.0] * 4
    assert journal.begin_attempt({}, after_step=1) == 2
    journal.append_groups([make_group(5)], step=2)
    assert journal.compact(up_to_step=2) > 0
    assert journal.groups(1) == groups
    assert isinstance(journal.task(groups[0].task.id), Task)
    with ask(tmp_path) as db:
        assert db.sql("SELECT count(*), count(token_ids) FROM experiences").fetchall() == [(12, 4)]
    journal.close()


def test_a_finished_run_in_a_read_only_folder_can_be_read(
    journal: Journal, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    journal.close()
    copy = tmp_path_factory.mktemp("copy")
    shutil.copy(tmp_path / "journal.sqlite", copy)
    (copy / "journal.sqlite").chmod(0o444)
    copy.chmod(0o555)
    try:
        with Reader.open(copy) as reader:
            assert len(reader.attempts()) == 17
    finally:
        copy.chmod(0o755)
