"""How fast a 0.6 B Qwen3-shaped model of random weights rolls out, trains and changes weights, and who waits for whom.

Run it on a machine with one GPU or more as ``python benchmarks/gpu/speed.py``; ``--toy`` does the same with a tiny model on any CPU, which
shows that it runs and says nothing of speed. It prints one table, with the command, the device and the date:

- training tokens/s, model FLOPs utilisation (the GPU's dense bfloat16 peak; causal attention counted once) and peak memory at each length,
  with the settings of the recipe qwen3_0.6b_code and every row of that length;
- the wall time of one weight update by each method that works here, adapter included;
- rollout tokens/s of the engine, all requests in flight;
- the idle shares of a whole run of the recipe: random weights solve nothing, so this is the loop's overhead at full-length attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from flywheel.background import BackgroundLoop
from flywheel.config import Recipe
from flywheel.contracts import Engine, ProbeSample, Sampling, StepReport, WeightSync, WeightUpdate
from flywheel.errors import FlywheelError
from flywheel.inference.devices import place
from flywheel.inference.select import create_engine, serves_on_gpu
from flywheel.model_shape import ModelShape, read_shape
from flywheel.monitor.jsonl import read_metrics
from flywheel.recipe import load_recipe
from flywheel.trainer.arguments import grpo_config, loss_settings
from flywheel.trainer.grpo import FlywheelGRPOTrainer
from flywheel.trainer.loop import train
from flywheel.trainer.policy import load_policy, load_tokenizer, resolve_device, training_dtype
from flywheel.trainer.tiny import make_tokenizer
from flywheel.types import Batch, Row

RECIPE = "qwen3_0.6b_code"
STEPS = 4  # the first of which warms up and is not counted
# Dense bfloat16 FLOP/s as NVIDIA's data sheets give them.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
TOY = [
    *("--trainer.device", "cpu", "--engine.kind", "transformers", "--placement.sleep_level", "0", "--engine.max_model_len", "1024"),
    *("--rollout.groups_per_step", "1", "--rollout.group_size", "2", "--rollout.max_turns", "1", "--rollout.max_tokens_per_turn", "8"),
    *("--evaluation.tasks_per_environment", "1", "--trainer.micro_batch_tokens", "256"),
]
Line = tuple[str, str]


def make_model(folder: Path, *, toy: bool) -> Path:
    """Save a model of Qwen3-0.6B's shape (a toy: two narrow layers) and random weights, with a small tokenizer; return the folder."""
    tokenizer = make_tokenizer(["def work(xs):\n    return sorted(xs)\n"] * 2, 400, 32768)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    if not toy:
        sizes = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    config = Qwen3Config(
        **sizes,
        vocab_size=512 if toy else 151936,
        intermediate_size=128 if toy else 3072,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    (model.float() if toy else model.bfloat16()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def batch_of(step: int, length: int, num_tokens: int) -> Batch:
    """Return rows of one length, an eighth of it prompt, that together have about `num_tokens` tokens."""
    rng = random.Random(step)
    rows = []
    for at in range(max(1, num_tokens // length)):
        ids = tuple(rng.choices(range(3, 300), k=length))
        start = length // 8
        rows.append(
            Row(
                experience_id=f"{step}-{at}",
                kind="grpo",
                prompt_ids=ids[:start],
                completion_ids=ids[start:],
                loss_mask=(1,) * (length - start),
                behavior_logprobs=None,
                advantage=1.0 if at % 2 else -1.0,
            )
        )
    return Batch.create(step, tuple(rows))


def training(recipe: Recipe, model: str, shape: ModelShape, length: int, num_tokens: int) -> Iterator[Line]:
    """Yield training's figures at one length."""
    device = resolve_device(recipe.trainer.device)
    seen: list[dict[str, float]] = []

    def done(step: int, metrics: dict[str, float]) -> bool:
        seen.append(metrics)
        return len(seen) == STEPS

    with tempfile.TemporaryDirectory() as scratch:
        trainer = FlywheelGRPOTrainer(
            model=load_policy(recipe.policy, model, device, training_dtype(recipe.policy, device)),
            tokenizer=load_tokenizer(recipe.policy, model),
            args=grpo_config(recipe, Path(scratch), device),
            settings=loss_settings(recipe),
            next_batch=lambda step: batch_of(step, length, num_tokens),
            step_done=done,
        )
        trainer.train()
    counted = seen[1:]
    speed = statistics.median(metrics["train_tokens_per_s"] for metrics in counted)
    name = f"training at {length:,} tokens"
    yield name, f"{speed:,.0f} tokens/s"
    if peak := peak_flops(device):
        yield f"{name}, MFU", f"{shape.flops(length) * speed / peak:.1%}"
    if device.type == "cuda":
        yield f"{name}, peak memory", f"{max(metrics['peak_memory_gb'] for metrics in counted):.1f} GB"
        per_1k = max(metrics["peak_memory_mb_per_1k_tokens"] for metrics in counted)
        yield f"{name}, memory of a step for 1,000 tokens", f"{per_1k:.0f} MB"
    else:
        yield f"{name}, peak memory (of the process so far)", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"
    yield f"{name}, padding", f"{counted[-1]['padding_share']:.1%}"
    del trainer
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_flops(device: torch.device) -> float | None:
    """Return the device's dense bfloat16 peak, None where it is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


class TimedLink:
    """An experience link of made-up rows in front of a real engine. It keeps what each step reports."""

    def __init__(self, engine: Engine, background: BackgroundLoop, length: int) -> None:
        self._engine, self._background, self._length = engine, background, length
        self.reports: list[StepReport] = []

    def next_batch(self, step: int) -> Batch:
        """Return a batch of two rows."""
        return batch_of(step, self._length, 2 * self._length)

    def publish(self, update: WeightUpdate) -> None:
        """Make the engine serve the weights."""
        self._background.submit(self._engine.update_weights(update)).result()

    def probe(self) -> list[ProbeSample]:
        """Return freshly sampled tokens."""
        return self._background.call(self._sample(16, 16))

    async def _sample(self, count: int, num_tokens: int) -> list[ProbeSample]:
        prompts = [tuple(random.Random(at).choices(range(3, 300), k=32)) for at in range(count)]
        sampling = Sampling(max_tokens=num_tokens, temperature=1.0, ignore_eos=True)
        said = await asyncio.gather(*(self._engine.generate(prompt, sampling) for prompt in prompts))
        return [
            ProbeSample(prompt_ids=prompt, completion_ids=one.token_ids, logprobs=one.logprobs)
            for prompt, one in zip(prompts, said, strict=True)
        ]

    def step_committed(self, report: StepReport) -> None:
        """Keep the report."""
        self.reports.append(report)

    def should_stop(self) -> bool:
        """Go on to the last step."""
        return False

    def rollout_speed(self, count: int, num_tokens: int) -> float:
        """Return tokens/s over as many requests at once, after one round that warms up."""
        self._background.call(self._sample(count, 8))
        started = time.perf_counter()
        self._background.call(self._sample(count, num_tokens))
        return count * num_tokens / (time.perf_counter() - started)


def serving(recipe: Recipe, model: str, method: WeightSync, *, num_tokens: int) -> Iterator[Line]:
    """Yield the time of a weight update by one method and, by that, the rate of rollouts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, background = Path(scratch), BackgroundLoop()
        engine = create_engine(recipe, model, folder, method)
        try:
            background.call(engine.start())
            link = TimedLink(engine, background, 64)
            train(recipe, folder, link, model, attempt="1", weight_sync=method)
            took = statistics.median(report.metrics["publish_s"] for report in link.reports[1:])
            yield f"weight update by {method}", f"{took:.3f} s"
            count = recipe.engine.max_concurrency
            yield (
                f"rollouts by {engine.name} after updates by {method}, {count} at once",
                f"{link.rollout_speed(count, num_tokens):,.0f} tokens/s",
            )
        finally:
            background.close(engine.close())


def methods(recipe: Recipe) -> list[WeightSync]:
    """Return the ways of moving all weights that work on this machine."""
    if recipe.engine.kind == "transformers" or not serves_on_gpu(recipe):
        return ["disk"]
    return ["disk", "ipc"] if place(recipe).shared else ["disk", "nccl"]


def idle(words: Sequence[str], steps: int) -> Iterator[Line]:
    """Yield the idle shares of a whole run."""
    with tempfile.TemporaryDirectory() as scratch:
        own = ["--run.steps", str(steps), "--run.dir", scratch, "--run.cache_dir", scratch, "--monitor.wandb", "disabled"]
        ran = subprocess.run([sys.executable, "-m", "flywheel.train", RECIPE, *words, *own], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            yield "a whole run", f"failed: {ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else ran.returncode}"
            return
        figures = [metrics for step, metrics in read_metrics(Path(scratch) / RECIPE).items() if step > 1]
    for name in ("idle/trainer", "idle/engine"):
        yield f"a whole run, {name}", f"{statistics.fmean(metrics[name] for metrics in figures):.1%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of training, weight updates and rollouts.")
    parser.add_argument("--toy", action="store_true", help="a tiny model on a CPU")
    parser.add_argument("--model", help="a model's folder instead of random weights")
    parser.add_argument("--lengths", type=int, nargs="+", help="training lengths (2048 8192 16384)")
    parser.add_argument("--skip", nargs="*", default=[], choices=["training", "serving", "idle"], help="what not to measure")
    args = parser.parse_args()
    lengths = args.lengths or ([32, 64] if args.toy else [2048, 8192, 16384])
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or str(make_model(Path(scratch) / "model", toy=args.toy))
        words = ["--policy.model", model, *(TOY if args.toy else [])]
        longest = ["--engine.max_model_len", str(max(1024, *lengths)), "--run.steps", str(STEPS)]
        recipe = load_recipe(RECIPE, [*words, *longest])
        shape = read_shape(recipe.policy)
        if isinstance(shape, str):
            raise FlywheelError(shape)
        lines: list[Line] = []
        if "training" not in args.skip:
            for length in lengths:
                lines += training(recipe, model, shape, length, 256 if args.toy else 65536)
        if "serving" not in args.skip:
            awake = [*words, *longest, "--placement.sleep_level", "0", "--engine.max_concurrency", "8" if args.toy else "256"]
            plain = load_recipe(RECIPE, awake)
            for method in methods(plain):
                lines += serving(plain, model, method, num_tokens=16 if args.toy else 512)
            adapter = load_recipe(RECIPE, [*awake, "--policy.lora.rank", "8" if args.toy else "32"])
            lines += serving(adapter, model, "lora", num_tokens=16 if args.toy else 512)
        if "idle" not in args.skip:
            lines += idle(words, 2 if args.toy else 5)
    device = resolve_device(recipe.trainer.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"`{shlex.join(['python', *sys.argv])}` on {where}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, torch {torch.__version__}")
    print(f"{shape.parameters / 1e6:,.1f} M parameters, recipe {RECIPE}\n")
    print("| what | measured |\n|---|---|")
    for what, value in lines:
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
