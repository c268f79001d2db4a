"""How fast the experience store is, against the bare limit: SQLite and pyarrow writing the same bytes in the same pieces.

    python benchmarks/store_speed.py [--trajectories 4000] [--open 1000000] [--view 100000] [--run RUN …]

On one core: journalling trajectories of 1,000 tokens a group at a time, each group synced to the disk; moving them to Parquet
shards; reading them back. ``--open N`` builds a store of N short trajectories first (minutes for a million) and opens it. ``--view N``
asks what the window's page asks of a store of N attempts, in multiples of one scan of their index. ``--run`` prints the share of
its steps' wall time for which a finished run waited for its journal, and the CPU time of all its writing, most of which goes on beside
the rollouts: the records of ten steps are written again.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from flywheel.monitor.jsonl import read_metrics
from flywheel.routes import recorded_routes
from flywheel.store.encoding import encode
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.types import Check, Experience, Group, Task, ToolCall, Trajectory, Turn, Verdict, content_id
from flywheel.view.data import Asked, RunData

GROUP = 8


def make_group(number: int, num_tokens: int) -> Group:
    """Return a group of attempts of two turns each."""
    rng = random.Random(number)
    task = Task.create(env="bench", family="bench", prompt=f"task {number} " * 20, payload={"tests": [number] * 20}, seed=number)
    group_id = content_id("group", number)
    experiences = []
    for sibling in range(GROUP):
        half = num_tokens // 2
        turns = tuple(
            Turn(
                prompt_ids=tuple(rng.choices(range(150_000), k=min(100, half))),
                completion_ids=tuple(rng.choices(range(150_000), k=half)),
                behavior_logprobs=tuple(-rng.random() for _ in range(half)),
                policy_version="1.7",
                text="".join(rng.choices("abcdefghij (=)\n", k=4 * half)),
                tool_calls=(ToolCall(name="submit", arguments={"code": "x" * half}),),
                observation="passed 3 of 4" * 10,
            )
            for _ in range(2)
        )
        trajectory = Trajectory(task_id=task.id, turns=turns, stop_reason="terminated", answer=f"{number}/{sibling}", seed=sibling)
        checks = tuple(Check(name=f"test {i}", passed=True) for i in range(4))
        verdict = Verdict(outcome="solved", reward=1.0, checks=checks, evidence="all pass", verifier="bench", verifier_version="1")
        experiences.append(
            Experience(
                id=content_id(group_id, sibling), group_id=group_id, task=task, trajectory=trajectory, verdict=verdict, origin="on_policy"
            )
        )
    return Group(id=group_id, task=task, experiences=tuple(experiences))


@contextmanager
def timed(took: dict[str, float], name: str) -> Iterator[None]:
    """Measure wall time under `name`, and this process's CPU time under ``NAME cpu``: a busy machine stretches only the first."""
    started, used = time.perf_counter(), time.process_time()
    yield
    took[name], took[f"{name} cpu"] = time.perf_counter() - started, time.process_time() - used


def rate(took: dict[str, float], name: str, count: int) -> str:
    """Return how many a minute, by the clock and by CPU time."""
    return f"{60 * count / took[name]:,.0f} a minute ({60 * count / took[f'{name} cpu']:,.0f} a minute of CPU time)"


def journalling(folder: Path, groups: list[Group]) -> None:
    """Journal, compact and read, each beside its bare limit."""
    took: dict[str, float] = {}
    count = len(groups) * GROUP
    journal = Journal(folder / "run")
    with timed(took, "journal"):
        for step, group in enumerate(groups):
            journal.append_groups([group], step=step)
    pieces = []
    for group in groups:
        encoded = [encode(e) for e in group.experiences]
        pieces.append(
            [(e.id, found.body, found.arrays.pack() if found.arrays else b"") for e, found in zip(group.experiences, encoded, strict=True)]
        )
    bare = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, id TEXT, body TEXT, arrays BLOB)")
    with timed(took, "bare sqlite"):
        for piece in pieces:
            bare.execute("BEGIN IMMEDIATE")
            bare.executemany("INSERT INTO records (id, body, arrays) VALUES (?, ?, ?)", piece)
            bare.execute("COMMIT")
    num_bytes = sum(len(body) + len(arrays) for piece in pieces for _, body, arrays in piece)
    print(f"{count} trajectories of {groups[0].experiences[0].trajectory.num_completion_tokens} tokens, {num_bytes / count:.0f} bytes each")
    print(f"journalled: {rate(took, 'journal', count)}, {took['journal'] / took['bare sqlite']:.2f} x bare SQLite's time")
    with timed(took, "compact"):
        journal.compact(up_to_step=len(groups))
    (shard,) = (folder / "run" / "store").glob("experience-*.parquet")
    table = pq.read_table(shard)
    with timed(took, "bare pyarrow"):
        pq.write_table(table, folder / "bare.parquet", compression="zstd", row_group_size=256)
        with (folder / "bare.parquet").open("rb") as file:
            os.fsync(file.fileno())
    print(
        f"compacted: {rate(took, 'compact', count)}, {took['compact'] / took['bare pyarrow']:.2f} x bare pyarrow's time, "
        f"{shard.stat().st_size / num_bytes:.2f} of the bytes"
    )
    sample = random.Random(0).sample([e.id for group in groups for e in group.experiences], min(100, count))
    with timed(took, "read"):
        for experience_id in sample:
            journal.experience(experience_id)
    print(f"read from a shard, at random: {1000 * took['read'] / len(sample):.1f} ms each")
    journal.close()


def opening(folder: Path, count: int) -> None:
    """Build a large store and open it."""
    took: dict[str, float] = {}
    per_write = 250
    journal = Journal(folder / "large")
    with timed(took, "build"):
        for step in range(count // (GROUP * per_write)):
            journal.append_groups([make_group(step * per_write + i, 4) for i in range(per_write)], step=step)
    with timed(took, "compact"):
        journal.compact(up_to_step=count)
    journal.close()
    with timed(took, "write"):
        Journal(folder / "large").close()
    with timed(took, "open"), Reader.open(folder / "large") as reader:
        task = make_group(count // GROUP // 2, 4).task
        assert len(reader.attempts(task_id=task.id)) == GROUP
    print(
        f"{count:,} trajectories: built in {took['build']:.0f} s and compacted in {took['compact']:.0f} s; opened for writing in "
        f"{took['write']:.3f} s, for reading with one task's attempts in {took['open']:.3f} s"
    )


def best_of(times: int, work: Callable[[], object]) -> float:
    """Return the shortest time of a few, in milliseconds."""
    took: dict[str, float] = {}
    found = []
    for _ in range(times):
        with timed(took, "work"):
            work()
        found.append(1000 * took["work"])
    return min(found)


def window(folder: Path, count: int) -> None:
    """Ask what the window asks."""
    took: dict[str, float] = {}
    per_step = 50
    journal = Journal(folder / "window")
    steps = count // (GROUP * per_step)
    for step in range(steps):
        journal.append_groups([make_group(step * per_step + at, 40) for at in range(per_step)], step=step)
    journal.compact(up_to_step=steps)
    journal.close()
    data = RunData(folder / "window")
    with timed(took, "index"):
        while data.index.update():
            pass
    print(f"window: {steps * per_step * GROUP:,} attempts indexed for the search in {took['index']:.0f} s, while a page can be up")
    scan = best_of(5, lambda: data.reader.query("SELECT count(*) FROM experiences WHERE outcome = 'solved'"))
    group = make_group(1234, 40)
    questions: dict[str, Callable[[], object]] = {
        "overview, the first time": data.overview,
        "first page of groups": lambda: data.groups(Asked(filters={})),
        "a late page": lambda: data.groups(Asked(filters={}, page=200)),
        "filtered by step": lambda: data.groups(Asked(filters={"step": "17"})),
        "filtered by outcome and family": lambda: data.groups(Asked(filters={"outcome": "solved", "family": "bench"})),
        "search, rare words": lambda: data.groups(Asked(filters={}, words=group.task.id)),
        "search, a word that all have": lambda: data.groups(Asked(filters={}, words="passed")),
        "a group": lambda: data.group(group.id),
        "an attempt": lambda: data.attempt(group.experiences[0].id),
    }
    for what, question in questions.items():
        shortest = best_of(1 if "first time" in what else 3, question)
        print(f"  {what:<32}{shortest:8.1f} ms   {shortest / scan:6.1f} x a scan of the index")
    data.close()


def share(run: Path, folder: Path) -> None:
    """Print what journalling cost a run."""
    steps = {step: found for step, found in read_metrics(run).items() if "time/journal_s" in found}
    names = ("rollout", "journal", "train", "sync", "probe")
    wall = {step: sum(found.get(f"time/{name}_s", 0.0) for name in names) for step, found in steps.items()}
    shares = [found["time/journal_s"] / wall[step] for step, found in steps.items()]
    print(f"{run}: waited for the journal in {statistics.fmean(shares):.2%} of a step's wall time (median {statistics.median(shares):.2%})")
    took: dict[str, float] = {}
    some = list(steps)[-10:]
    with Reader.open(run) as store:
        recorded = [(step, store.groups(step), store.batch(step), recorded_routes(store, step)) for step in some]
    journal = Journal(folder / f"again-{run.name}")
    with timed(took, "again"):
        for step, groups, batch, routes in recorded:
            for group in groups:
                journal.append_groups([group], step=step)
            if batch is not None:
                journal.append_batch(batch, [(route.experience_id, route) for route in routes])
    journal.close()
    total = sum(wall[step] for step in some)
    print(f"  all that was written takes {took['again cpu'] / total:.2%} of it in CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=4000)
    parser.add_argument("--open", type=int, metavar="N", help="open a store of N trajectories, too")
    parser.add_argument("--view", type=int, metavar="N", help="ask the window's questions of a store of N attempts, too")
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="finished runs whose journalling share is printed")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        journalling(Path(name), [make_group(i, 1000) for i in range(args.trajectories // GROUP)])
        if args.open:
            opening(Path(name), args.open)
        if args.view:
            window(Path(name), args.view)
        for run in args.run:
            share(run, Path(name))


if __name__ == "__main__":
    main()
