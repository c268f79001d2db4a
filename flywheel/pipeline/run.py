"""Performs a pipeline's stages, one after another, in this process; finished ones are passed over."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from flywheel.background import BackgroundLoop
from flywheel.distill.collect import collect
from flywheel.distill.teach import teach
from flywheel.errors import ConfigError, RunStopped
from flywheel.pipeline.marker import StageNote, begin, finished_stages, made_by, write_note
from flywheel.pipeline.plan import Kind, StagePlan, plan_stages, resolved
from flywheel.run_folder import RunFolder
from flywheel.supervisor import Run
from flywheel.trainer.checkpoints import latest_checkpoint
from flywheel.trainer.policy import fold_adapter, release_memory

_WIDTH = 110
_LEARNT = {"rows": "attempts", "anchors": "references"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What a stage came to: the model that it made, if it makes one, and figures."""

    model: Path | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


Performer = Callable[[RunFolder, BackgroundLoop, Sequence[Path]], StageResult]


def _train(folder: RunFolder, background: BackgroundLoop, sources: Sequence[Path]) -> StageResult:
    Run(folder, background).run()
    release_memory()
    summary = json.loads((folder.path / "summary.json").read_text("utf-8"))
    figures: dict[str, float] = {}
    for row in summary["heldout"]:
        if "/" not in row["label"]:
            figures |= {f"{row['label']} {when}": row[when]["mean"] for when in ("before", "after") if row[when]}
    return StageResult(model=whole_model(folder.path, folder.path / "model"), figures=figures)


def _collect(folder: RunFolder, background: BackgroundLoop, sources: Sequence[Path]) -> StageResult:
    return StageResult(figures=collect(folder, background))


def _distill(folder: RunFolder, background: BackgroundLoop, sources: Sequence[Path]) -> StageResult:
    figures = teach(folder, background, sources)
    release_memory()
    return StageResult(model=folder.path / "model", figures=figures)


PERFORMERS: Mapping[Kind, Performer] = {"train": _train, "collect": _collect, "distill": _distill}


class Pipeline:
    """One start of a pipeline, from an empty or a half-done folder to its last stage.

    Args:
        folder: The pipeline's.
        stop_requested: Set when the pipeline is to stop; the stage at hand leaves what it needs to go on.
        performers: What performs a stage of each kind.
        stream: Where the stages are told; standard output by default.
    """

    def __init__(
        self,
        folder: RunFolder,
        stop_requested: threading.Event,
        *,
        performers: Mapping[Kind, Performer] = PERFORMERS,
        stream: TextIO | None = None,
    ) -> None:
        self._root = folder.path
        self._plans = plan_stages(folder.recipe)
        self._stop_requested = stop_requested
        self._performers = performers
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH

    def run(self) -> None:
        """Run to the end.

        Raises:
            RunStopped: a stop was asked for.
            FlywheelError: what went wrong.
        """
        notes = finished_stages(self._plans, self._root)
        for number, plan in enumerate(self._plans, start=1):
            name = f"stage {number}/{len(self._plans)} {plan.name} ({plan.kind})"
            if plan.name in notes:
                self._console.print(f"{name}: finished before")
                continue
            if self._stop_requested.is_set():
                raise RunStopped("stop requested")
            self._console.rule(name, align="left")
            started = time.monotonic()
            result = self._perform(plan, notes)
            folder = self._root / plan.name
            notes[plan.name] = StageNote(
                name=plan.name,
                kind=plan.kind,
                digest=plan.digest,
                elapsed_s=round(time.monotonic() - started, 1),
                model=None if result.model is None else str(result.model.relative_to(folder)),
                figures=result.figures,
            )
            write_note(folder, notes[plan.name])
        in_order = [notes[plan.name] for plan in self._plans]
        self._console.print(table_of(in_order))
        if last := next((note for note in reversed(in_order) if note.model is not None), None):
            self._console.print(f"the last model: {self._root / last.name / str(last.model)}")

    def _perform(self, plan: StagePlan, notes: Mapping[str, StageNote]) -> StageResult:
        path = self._root / plan.name
        if plan.start is not None:
            model = str((self._root / plan.start / str(notes[plan.start].model)).resolve())
        else:
            model = plan.recipe.policy.model
            if (Path(model) / "recipe.toml").is_file():
                model = str(whole_model(Path(model), path / "start").resolve())
        folder = RunFolder.at(path, resolved(plan, model, self._root).recipe)
        folder.save_recipe()
        begin(path, plan.inputs)
        sources = [self._root / source for source in plan.sources]
        return self._performers[plan.kind](folder, BackgroundLoop(self._stop_requested), sources)


def whole_model(run: Path, out: Path) -> Path:
    """Return the folder of a run's newest policy, or of what a distill stage made; an adapter is folded into its model, written to `out`.

    Raises:
        ConfigError: the run has no complete checkpoint.
    """
    checkpoint = latest_checkpoint(run)
    if checkpoint is None and (made := made_by(run)) is not None:
        return made
    if checkpoint is None:
        raise ConfigError(f"{run}: the run has no complete checkpoint")
    if not (checkpoint / "adapter_config.json").exists():
        return checkpoint
    return fold_adapter(RunFolder.opened(run).recipe.policy, checkpoint, out)


def table_of(notes: Sequence[StageNote]) -> Table:
    """Return the table of what the stages came to."""
    table = Table("stage", "kind", "what came of it", title="stages", title_justify="left")
    table.add_column("minutes", justify="right")
    for note in notes:
        table.add_row(note.name, note.kind, told(note), f"{note.elapsed_s / 60:.1f}")
    return table


def told(note: StageNote) -> str:
    """Return a stage's figures in words."""
    figures = note.figures
    if note.kind == "train":
        names = [name.removesuffix(" before") for name in figures if name.endswith(" before")]
        return "held-out pass@1 " + ", ".join(
            f"{name} {figures[f'{name} before']:.3f} → {figures.get(f'{name} after', float('nan')):.3f}" for name in names
        )
    if note.kind == "collect":
        return (
            f"{figures['attempts']:.0f} attempts at {figures['tasks']:.0f} tasks, {100 * figures['solved']:.0f} % solved, "
            f"{figures['kept']:.0f} kept"
        )
    learnt = " and ".join(f"{figures[name]:.0f} {what}" for name, what in _LEARNT.items() if figures[name])
    return f"{learnt}, loss {figures['first_loss']:.3f} → {figures['last_loss']:.3f}"
