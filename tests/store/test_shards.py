"""Records in Parquet shards read as before, a damaged or missing shard costs only itself, and a kill while sealing costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flywheel.errors import StoreError
from flywheel.store.__main__ import main
from flywheel.store.journal import Journal
from flywheel.store.lineage import made_step
from flywheel.store.reader import Reader
from flywheel.store.sql import ask
from flywheel.types import Group
from tests.command_line import ROOT
from tests.store.attempts import make_batch, make_group


def filled(folder: Path, steps: int = 3, groups_per_step: int = 2, num_tokens: int = 12) -> dict[int, list[Group]]:
    made = {step: [make_group(10 * step + i, num_tokens=num_tokens) for i in range(groups_per_step)] for step in range(1, steps + 1)}
    journal = Journal(folder)
    for step, groups in made.items():
        journal.append_groups(groups, step=step)
        journal.append_batch(
            make_batch(step, groups), [(e.id, {"experience_id": e.id, "destination": "grpo", "reason": "r"}) for e in groups[0].experiences]
        )
    journal.close()
    return made


def test_what_moved_to_shards_reads_as_before(tmp_path: Path) -> None:
    made = filled(tmp_path)
    journal = Journal(tmp_path)
    assert journal.compact(up_to_step=2) == 2 * (2 + 8 + 4 + 1)
    assert journal.compact(up_to_step=2) == 0
    for step, groups in made.items():
        assert journal.groups(step) == groups
        assert journal.batch(step) == make_batch(step, groups)
    assert [data["id"] for data in journal.select("experience")] == [
        e.id for groups in made.values() for g in groups for e in g.experiences
    ]
    assert journal.query("SELECT count(*) FROM records WHERE shard IS NULL AND kind = 'experience'") == [(8,)]
    journal.append_groups(made[1], step=7)  # what is in a shard is there: it is not written again
    assert len(journal.attempts()) == 24
    journal.close()
    table = pq.read_table(next((tmp_path / "store").glob("experience-*.parquet")))
    first = made[1][0].experiences[0]
    assert table["token_ids"][0].as_py() == [i for turn in first.trajectory.turns for i in (*turn.prompt_ids, *turn.completion_ids)]
    assert table["behavior_logprobs"][0].as_py() == [p for turn in first.trajectory.turns for p in turn.behavior_logprobs or ()]
    assert sum(table["loss_mask"][0].as_py()) == first.trajectory.num_completion_tokens
    assert (table["outcome"][0].as_py(), table["tier"][0].as_py()) == ("failed", "L2")


def test_too_little_to_fill_a_shard_waits(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = Journal(tmp_path)
    assert journal.compact(up_to_step=3, min_bytes=10**9) == 0
    assert not (tmp_path / "store").exists()
    journal.close()


def test_a_corrupted_shard_is_a_clear_error_and_costs_only_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = filled(tmp_path)
    journal = Journal(tmp_path)
    journal.compact(up_to_step=1)
    journal.compact(up_to_step=2)
    first, second = sorted((tmp_path / "store").glob("experience-*.parquet"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(damaged)
    journal.close()
    with Reader.open(tmp_path) as reader:
        with pytest.raises(StoreError, match=r"a sealed shard is damaged .*--resume does not need it"):
            reader.experience(made[1][0].experiences[0].id)
        assert reader.groups(2) == made[2]
        assert reader.groups(3) == made[3]
        assert reader.attempts(step=1)  # the index still knows them
        bodies = reader.bodies("experience", after_seq=0, limit=100)
        assert [data is None for _, data in bodies] == [True] * 8 + [False] * 16
    assert main([str(tmp_path), "SELECT count(*) FROM experiences"]) == 1
    assert "a sealed shard is damaged" in capsys.readouterr().err
    with ask(tmp_path, skip_damaged=True) as db:
        assert db.sql("SELECT step, count(*) FROM experiences GROUP BY ALL ORDER BY ALL").fetchall() == [(2, 8), (3, 8)]
    with Reader.open(tmp_path) as reader:
        assert [problem.split(":")[0] for problem in reader.check()] == [str(first)]
        second.unlink()
        assert [problem.split(":")[0] for problem in reader.check()] == [str(first), str(second)]
    Journal(tmp_path).close()  # and the run can go on


def test_a_kill_while_a_shard_is_sealed_costs_nothing(tmp_path: Path) -> None:
    made = filled(tmp_path)
    # Dies after the rename and before the journal knows of the shard: the worst moment.
    code = f"""
import os, signal
from pathlib import Path
from flywheel.store import shards
from flywheel.store.journal import Journal
shards._sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
Journal(Path({str(tmp_path)!r})).compact(up_to_step=2)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -9
    (tmp_path / "store" / ".experience-000009.parquet.writing").write_bytes(b"half")
    assert len(list((tmp_path / "store").iterdir())) == 2
    journal = Journal(tmp_path)
    assert list((tmp_path / "store").iterdir()) == []
    assert {step: journal.groups(step) for step in made} == made
    assert journal.compact(up_to_step=3) > 0
    assert {step: journal.groups(step) for step in made} == made
    assert journal.check() == []
    journal.close()


def test_retention_drops_the_oldest_attempts_and_says_so(tmp_path: Path) -> None:
    made = filled(tmp_path, steps=4)
    journal = Journal(tmp_path)
    for step in (1, 2, 3):
        journal.compact(up_to_step=step)
    sealed = sorted((tmp_path / "store").iterdir(), key=lambda path: path.stem.rpartition("-")[2])
    files = [path.name for path in sealed if path.name.startswith(("experience", "batch"))][:4]
    assert journal.drop_oldest(max_bytes=0, before_step=3) == files  # step 3's may be needed to go on
    with pytest.raises(StoreError, match=r"dropped, as store\.max_gb asked"):
        journal.experience(made[1][0].experiences[0].id)
    assert journal.groups(3) == made[3]
    assert [record["file"] for record in journal.select("retention")] == files
    assert (len(journal.attempts(step=1)), journal.check()) == (8, [])
    assert [len(journal.attempts(step=step, readable=True)) for step in (1, 2, 3, 4)] == [0, 0, 8, 8]
    assert {info.step for info in journal.solved()} == {3, 4}
    assert [row.experience_id for row in made_step(journal, 1).rows] == [e.id for group in made[1] for e in group.experiences]
    assert journal.drop_oldest(max_bytes=0, before_step=3) == []
    journal.close()
