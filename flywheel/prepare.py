"""Makes the policy that RL begins with: the tiny model where asked for, and the cold start on demonstrations. Both are cached.

Where all weights are trained, the engine can start on `base_policy` while `cold_start` is still training: they are swapped
before the first rollout.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flywheel import __version__
from flywheel.background import BackgroundLoop
from flywheel.config import LoraSettings, PolicyConfig, Recipe
from flywheel.errors import RunStopped
from flywheel.inference.model_files import load_chat
from flywheel.inference.tool_syntax import Qwen3Coder
from flywheel.monitor.progress import Progress
from flywheel.rollout.demonstrations import Demonstration, demonstration_row, play_demonstrations
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource, environment_class
from flywheel.trainer.cold_start import COLD_START_FORMAT, run_cold_start
from flywheel.trainer.tiny import TINY_FORMAT, make_tiny
from flywheel.types import Row, content_id

NUM_TOKENIZER_TEXTS = 512


class PolicyMaker:
    """Prepares a run's policy.

    Args:
        recipe: The resolved recipe.
        source: Gives the demonstrations.
        stage: Plays them.
        background: Where coroutines run, and whether a stop was asked for.
        progress: Shown to the person.
    """

    def __init__(self, recipe: Recipe, source: TaskSource, stage: Stage, background: BackgroundLoop, progress: Progress) -> None:
        self._recipe = recipe
        self._source = source
        self._stage = stage
        self._background = background
        self._progress = progress
        self._cache = recipe.run.cache_dir.expanduser()
        sources = {name: _source_digest(environment_class(name, config)) for name, config in recipe.environments.items()}
        told = recipe.model_dump(mode="json", include={"environments": True, "tasks": True, "policy": {"tiny"}, "run": {"seed"}})
        self._tiny_key = content_id(__version__, TINY_FORMAT, told, sources)
        self._demonstrations: list[Demonstration] = []

    def base_policy(self) -> str:
        """Return the model to serve first: the path or hub id that the recipe names, or the tiny model's folder."""
        if self._recipe.policy.model != "tiny":
            return self._recipe.policy.model
        folder = self._cache / "tiny" / self._tiny_key
        if not (folder / "config.json").exists():
            self._progress.stage("making the tiny model")
            texts = (text for d in self._played(NUM_TOKENIZER_TEXTS) for text in _texts(d))
            make_tiny(self._recipe.policy.tiny, texts, self._recipe.run.seed, folder)
        return str(folder)

    def cold_start(self, base: str) -> str:
        """Return the model that RL begins with: `base` after supervised training on demonstrations.

        Raises:
            RunStopped: a stop was asked for; what was trained so far is dropped, the next run trains it again.
        """
        config = self._recipe.cold_start
        if config.steps == 0:
            return base
        policy = cold_started(self._recipe.policy)
        told = policy.model_dump(mode="json"), config.model_dump(mode="json", exclude={"cache"})
        folder = self._cache / "cold_start" / content_id(self._tiny_key, COLD_START_FORMAT, *told)
        if (folder / "config.json").exists() and config.cache:
            self._progress.line(f"cold start: cached in {folder}")
            return str(folder)
        self.train(base, self.demonstration_rows(base, config.num_demonstrations), folder)
        return str(folder)

    def demonstration_rows(self, base: str, count: int) -> list[Row]:
        """Return `count` reference solutions as cross-entropy rows in the format of the model `base`."""
        chat = load_chat(base, self._recipe.policy)
        return [demonstration_row(demonstration, chat) for demonstration in self._played(count)]

    def train(self, base: str, rows: Sequence[Row], folder: Path) -> list[float]:
        """Train the model `base` on rows by the recipe's ``[cold_start]`` section, write it to `folder`; return the losses.

        Raises:
            RunStopped: a stop was asked for; nothing is written.
        """
        losses: list[float] = []
        show = self._cold_start_progress()

        def progress(step: int, loss: float) -> None:
            losses.append(loss)
            show(step, loss)

        self._progress.stage("cold start")
        run_cold_start(
            base,
            rows,
            self._recipe.cold_start,
            self._recipe.run.seed,
            folder,
            progress,
            policy=cold_started(self._recipe.policy),
            device=self._recipe.trainer.device,
        )
        return losses

    def _played(self, count: int) -> list[Demonstration]:
        """Return the first `count` demonstrations, playing those that were not played yet."""
        missing = count - len(self._demonstrations)
        if missing > 0:
            self._progress.stage("playing demonstrations")
            begin = len(self._demonstrations)
            self._demonstrations += self._background.call(
                play_demonstrations(
                    itertools.islice(self._source.demonstrations(self._recipe.run.seed), begin, count),
                    self._stage,
                    concurrency=self._recipe.rollout.env_threads,
                    progress=lambda played: self._progress.update(step=begin + played, steps=count),
                )
            )
        return self._demonstrations[:count]

    def _cold_start_progress(self) -> Callable[[int, float], None]:
        def show(step: int, loss: float) -> None:
            if self._background.stop_requested.is_set():
                raise RunStopped("stop requested during the cold start")
            self._progress.update(step=step, steps=self._recipe.cold_start.steps, loss=loss)

        return show


def cold_started(policy: PolicyConfig) -> PolicyConfig:
    """Return the policy as the cold start trains it: a tiny model knows nothing yet, and an adapter can't teach it everything."""
    return policy.model_copy(update={"lora": LoraSettings()}) if policy.model == "tiny" else policy


def _texts(demonstration: Demonstration) -> list[str]:
    """Return what a demonstration says, calls in the tiny model's own syntax: what its tokenizer is trained on."""
    syntax = Qwen3Coder(framed=False)
    experience = demonstration.experience
    said = [
        [*([syntax.write(call) for call in turn.tool_calls] or [turn.text]), turn.observation or ""] for turn in experience.trajectory.turns
    ]
    return [experience.task.prompt, *(text for texts in said for text in texts)]


def _source_digest(cls: Any) -> str:
    """Return a digest of the environment's own source files, so that a changed generator makes a new cold start."""
    file = Path(inspect.getfile(cls))
    folder = [*sorted(file.parent.rglob("*.py"))] if (file.parent / "__init__.py").exists() else [file]
    return content_id(*(path.read_text("utf-8") for path in folder))
