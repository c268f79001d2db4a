"""Arm (a) of `sample_efficiency.py`: TRL's own GRPOTrainer, its own generation and advantages, on a run's recipe.

    python -m benchmarks.sample_efficiency_trl RECIPE --model FOLDER --out FOLDER

The tasks are those that flywheel would draw uniformly, in its order; one turn an attempt; the reward is the environment's own
verifier's. Weights are written every ``evaluation.every`` steps and evaluated afterwards on the held-out tasks by flywheel's own
engine and evaluation. ``curve.json`` gets a point an evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.config import Recipe
from flywheel.contracts import WeightUpdate
from flywheel.evaluation import evaluate
from flywheel.inference.chat import ChatFormat, load_tokenizer
from flywheel.judge import judge
from flywheel.monitor.progress import Progress
from flywheel.recipe import load_recipe
from flywheel.rollout.episode import answer_of
from flywheel.rollout.groups import Traffic
from flywheel.rollout.stage import Stage
from flywheel.serving import Serving
from flywheel.tasks.source import TaskSource, environment_class
from flywheel.trainer.policy import save_weights
from flywheel.trainer.trl_lean import GRPOConfig, GRPOTrainer
from flywheel.types import Task, Trajectory, Turn

MICRO_BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    points = train(recipe, args.model, args.out)
    rates = pass_rates(recipe, [args.model, *(args.out / f"step-{point['step']}" for point in points[1:])])
    for point, rate in zip(points, rates, strict=True):
        point["pass"] = rate
    (args.out / "curve.json").write_text(json.dumps(points))
    return 0


@dataclass(kw_only=True)
class Judge:
    """The reward function: reads a completion as flywheel does, and counts what it sees."""

    recipe: Recipe
    stage: Stage
    chat: ChatFormat
    tasks: Sequence[Task]
    tokens: int = 0
    verdicts: int = 0
    __name__: str = "verdict"
    _environments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *, completion_ids: Sequence[Sequence[int]], index: Sequence[int], **_: Any) -> list[float]:
        self.tokens += sum(map(len, completion_ids))
        self.verdicts += len(completion_ids)
        return [self.reward(self.tasks[at], ids) for at, ids in zip(index, completion_ids, strict=True)]

    def reward(self, task: Task, ids: Sequence[int]) -> float:
        """Return the verifier's reward of a completion as a whole attempt."""
        env, verifier = self.environment(task.env), self.stage.verifiers[task.env]
        parsed = self.chat.parse(ids, env.tools)
        turn = Turn(
            prompt_ids=(),
            completion_ids=tuple(ids),
            behavior_logprobs=None,
            policy_version="",
            text=parsed.text,
            tool_calls=parsed.tool_calls,
        )
        trajectory = Trajectory(task_id=task.id, turns=(turn,), stop_reason="terminated", answer=None)
        answered = Trajectory(task_id=task.id, turns=(turn,), stop_reason="terminated", answer=answer_of(env, trajectory))
        return judge(verifier, task, answered).reward

    def environment(self, name: str) -> Any:
        """Return an environment, for its tools and its reading of answers."""
        if name not in self._environments:
            self._environments[name] = environment_class(name, self.recipe.environments[name])(judge=False)
        return self._environments[name]


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Writes weights at the evaluation's steps and notes what they cost; writing is not counted."""

    def __init__(self, judge: Judge, tokenizer: Any, out: Path, every: int) -> None:
        self.judge, self.tokenizer, self.out, self.every = judge, tokenizer, out, every
        self.points: list[dict[str, float]] = [point(0, judge, 0.0)]
        self.spent_s, self.since = 0.0, time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if state.global_step % self.every == 0:
            self.spent_s += time.perf_counter() - self.since
            save_weights(model, self.tokenizer, self.out / f"step-{state.global_step}")
            self.points.append(point(state.global_step, self.judge, self.spent_s))
            print(f"step {state.global_step}/{state.max_steps}: {self.judge.tokens:,} tokens, {self.spent_s:.0f} s", flush=True)
            self.since = time.perf_counter()


def point(step: int, judge: Judge, seconds: float) -> dict[str, float]:
    """Return a point of the curve; every sampled token is a trained one."""
    return {"step": step, "sampled": judge.tokens, "trained": judge.tokens, "seconds": seconds, "verdicts": judge.verdicts}


def train(recipe: Recipe, model_dir: Path, out: Path) -> list[dict[str, float]]:
    """Train, and return the points of the curve without their pass rates."""
    rollout, trainer, steps = recipe.rollout, recipe.trainer, recipe.run.steps
    tokenizer = load_tokenizer(model_dir)
    chat = ChatFormat(tokenizer, recipe.policy.tool_format)
    source = TaskSource(recipe)
    sandbox.configure(recipe.sandbox)
    tasks = [source.drawer(step)(at) for step in range(1, steps + 1) for at in range(rollout.groups_per_step)]
    stage = Stage(recipe)
    judge = Judge(recipe=recipe, stage=stage, chat=chat, tasks=tasks)
    prompts = [chat.render_task(task.prompt, judge.environment(task.env).tools) for task in tasks]
    texts = [tokenizer.decode(ids) for ids in prompts]
    if any(tuple(tokenizer(text)["input_ids"]) != ids for text, ids in zip(texts, prompts, strict=True)):
        raise RuntimeError("a prompt reads back as other tokens: the arms would not see the same tasks")
    size = rollout.groups_per_step * rollout.group_size
    arguments = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        seed=recipe.run.seed,
        max_steps=steps,
        learning_rate=trainer.learning_rate,
        lr_scheduler_type=trainer.lr_schedule,
        warmup_steps=trainer.warmup_steps,
        weight_decay=trainer.weight_decay,
        adam_beta2=trainer.adam_beta2,
        max_grad_norm=trainer.max_grad_norm,
        gradient_checkpointing=False,
        loss_type=trainer.loss_type,
        scale_rewards=trainer.scale_rewards,
        epsilon=trainer.clip_low,
        epsilon_high=trainer.clip_high,
        beta=trainer.kl_beta,
        temperature=rollout.temperature,
        max_completion_length=rollout.max_tokens_per_turn,
        num_generations=rollout.group_size,
        per_device_train_batch_size=min(MICRO_BATCH, size),
        gradient_accumulation_steps=max(1, size // MICRO_BATCH),
        shuffle_dataset=False,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.generation_config.eos_token_id = list(chat.stop_token_ids)
    keeper = Keeper(judge, tokenizer, out, recipe.evaluation.every)
    dataset = Dataset.from_dict({"prompt": texts, "index": list(range(len(texts)))})
    grpo = GRPOTrainer(
        model=model, reward_funcs=judge, args=arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[keeper]
    )
    grpo.remove_callback(PrinterCallback)
    grpo.train()
    stage.close()
    return keeper.points


def pass_rates(recipe: Recipe, folders: Sequence[Path]) -> list[float]:
    """Return held-out pass@1 of several models, all served by one engine in turn."""
    found = []
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(Progress("evaluating", len(folders)))
        stage = Stage(recipe)
        stack.callback(stage.close)
        stack.callback(sandbox.close_shared)
        background = BackgroundLoop()
        serving = Serving.begin(recipe, str(folders[0]), logs, background, progress)
        stack.callback(lambda: background.close(serving.engine.close()))
        background.wait(serving.starting)
        collector = serving.collector(recipe, stage, Traffic())
        source = TaskSource(recipe)
        for number, folder in enumerate(folders):
            update = WeightUpdate(policy_version=folder.name, method="disk", path=folder.resolve())
            background.call(serving.engine.update_weights(update))
            evaluation, _ = background.call(evaluate(collector, source, recipe.evaluation, step=number, name=f"evaluation/{number}"))
            found.append(sum(score.num_solved for score in evaluation.scores) / sum(score.num_samples for score in evaluation.scores))
            progress.line(f"{folder.name}: {found[-1]:.3f}")
    return found


if __name__ == "__main__":
    sys.exit(main())
