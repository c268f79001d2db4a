"""Exports a run's attempts into a file: selection, rows and file together, for the command and for pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from flywheel.errors import ConfigError
from flywheel.export.conversation import Conversations, find_chat
from flywheel.export.files import write_rows
from flywheel.export.rows import FEATURES, SAMPLED, Form, Kind, RowMaker
from flywheel.export.selection import Selection, read_experiences, select
from flywheel.run_folder import RunFolder
from flywheel.store.reader import Reader

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What came of an export: rows written, attempts read for them, attempts without a row by reason, and what the store has dropped.

    `num_weighted` of the rows have messages with weight 0.
    """

    num_rows: int
    num_attempts: int
    skipped: Mapping[str, int]
    num_dropped: int
    num_weighted: int = 0


def export(
    run_dir: Path,
    out: Path,
    selection: Selection,
    *,
    kind: Kind = "sft",
    form: Form = "messages",
    pairs_per_task: int = 4,
    tokenizer: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write what a run's store holds of a selection to `out`; nothing is written where that is nothing.

    Args:
        run_dir: The run's folder; the run may be going on.
        out: See `flywheel.export.files`.
        selection: Which attempts; of preference pairs, the outcomes are given.
        kind: To imitate, or preference pairs.
        form: Conversations, or token ids.
        pairs_per_task: Most preference pairs of one task.
        tokenizer: The policy's, where the run's folder has none yet.
        progress: Called with the number of attempts read and of all.

    Raises:
        StoreError: the store can't be read, or the disk is full.
        ConfigError: the run's recipe or environments can't be read, or there is no tokenizer and one is needed.
    """
    if kind == "dpo":
        selection = replace(selection, outcomes=("solved", "failed"), in_groups=True)
    with Reader.open(run_dir) as reader:
        selected = select(reader, selection)
        conversations, name = None, run_dir.resolve().name
        if form == "messages" or _has_others(reader):
            recipe = RunFolder.opened(run_dir).recipe
            conversations = Conversations(recipe, find_chat(run_dir, recipe, tokenizer))
        maker = RowMaker(run=name, conversations=conversations, pairs_per_task=pairs_per_task, repeats=selection.duplicates)
        attempts = _counted(read_experiences(reader, selected.found), len(selected.found), progress)
        try:
            rows = (maker.sft if kind == "sft" else maker.dpo)(attempts, form)
            num_rows = write_rows(rows, FEATURES[kind, form], out)
        finally:
            if conversations is not None:
                conversations.close()
        if num_rows == 0 and selected.num_dropped and not selected.found:
            raise ConfigError(f"{run_dir}: all {selected.num_dropped} such attempts were dropped from the store, as store.max_gb asked")
        return Exported(
            num_rows=num_rows,
            num_attempts=len(selected.found),
            skipped=Counter(maker.skipped),
            num_dropped=selected.num_dropped,
            num_weighted=maker.num_weighted,
        )


def _has_others(reader: Reader) -> bool:
    """Whether a store has attempts that no policy sampled on their own task."""
    return bool(reader.query(f"SELECT 1 FROM experiences WHERE origin NOT IN ({','.join('?' * len(SAMPLED))}) LIMIT 1", SAMPLED))


def contents(run_dir: Path) -> str:
    """Return in words what a store holds: what to say where a selection found nothing."""
    asked = (
        "SELECT e.env || '/' || e.family, e.origin, e.outcome, t.split, count(*) FROM experiences e JOIN tasks t ON t.id = e.task_id "
        "GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 12"
    )
    with Reader.open(run_dir) as reader:
        found = reader.query(asked)
    named = (f"{count} {outcome} {origin} of {family} ({split})" for family, origin, outcome, split, count in found)
    return "; ".join(named) or "no attempts"


def _counted(items: Iterable[T], total: int, progress: Callable[[int, int], None]) -> Iterator[T]:
    for done, item in enumerate(items, start=1):
        if done % 64 == 0 or done == total:
            progress(done, total)
        yield item
