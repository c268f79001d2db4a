"""The served policy: the engine, its chat format, and how attempts are collected from it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from dataclasses import dataclass
from pathlib import Path

from flywheel.background import BackgroundLoop
from flywheel.config import Recipe
from flywheel.contracts import Engine, Sampling, WeightSync
from flywheel.inference.chat import ChatFormat
from flywheel.inference.devices import place
from flywheel.inference.model_files import context_length, load_chat
from flywheel.inference.select import choose_weight_sync, create_engine, select_engine
from flywheel.monitor.progress import Progress
from flywheel.rollout.episode import Limits
from flywheel.rollout.groups import Collector, Traffic
from flywheel.rollout.stage import Stage


def weight_sync(recipe: Recipe) -> WeightSync:
    """Return how new weights reach the engine on this machine.

    Raises:
        ConfigError: what the recipe asks for can't work here.
    """
    return choose_weight_sync(recipe, place(recipe))


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """An engine that was told to start; wait for `starting` before asking it anything."""

    engine: Engine
    chat: ChatFormat
    weight_sync: WeightSync
    max_context: int
    starting: concurrent.futures.Future[None]

    @staticmethod
    def begin(recipe: Recipe, model: str, logs: Path, background: BackgroundLoop, progress: Progress) -> Serving:
        """Start to serve `model` and return at once.

        Args:
            recipe: The resolved recipe.
            model: A folder or hub id.
            logs: Where the engine writes its log.
            background: Where its coroutines run; its `close` must be given ``engine.close()``.
            progress: Told which engine it is, and why.
        """
        sync = weight_sync(recipe)
        kind, why = select_engine(recipe)
        progress.line(f"engine: {kind} ({why}); new weights reach it by {sync}")
        engine = create_engine(recipe, model, logs, sync)
        return Serving(
            engine=engine,
            chat=load_chat(model, recipe.policy),
            weight_sync=sync,
            max_context=recipe.engine.max_model_len or context_length(model, recipe.policy),
            starting=background.submit(engine.start()),
        )

    def collector(self, recipe: Recipe, stage: Stage, traffic: Traffic) -> Collector:
        """Return what collects attempts by the recipe's ``[rollout]`` section."""
        rollout = recipe.rollout
        return Collector(
            stage=stage,
            engine=self.engine,
            chat=self.chat,
            limits=Limits.of(rollout, self.max_context),
            sampling=Sampling(
                max_tokens=rollout.max_tokens_per_turn,
                temperature=rollout.temperature,
                top_p=rollout.top_p,
                top_k=rollout.top_k,
                seed=recipe.run.seed if recipe.run.deterministic else None,
            ),
            max_retries=rollout.max_retries,
            places=asyncio.Semaphore(recipe.engine.max_concurrency),
            traffic=traffic,
        )
