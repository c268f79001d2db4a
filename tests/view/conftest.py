"""A run's folder with hostile text in it, for the window's tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from flywheel.store.journal import Journal, Relabelling
from flywheel.types import Experience, Group, Trajectory, Turn
from tests.store.attempts import make_batch, make_experience, make_task

HOSTILE = (
    '<img src=x onerror="window.pwned=1"></script><script>window.pwned=2</script><!-- \u202e reversed -->\x1b[31m'
    "\ud800 javascript:window.pwned=3 {{7*7}} ${window.pwned=4}"
)
SECRET = "HIDDEN-TEST-CANARY"
STEPS = 3


def make_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def spoken(experience: Experience, text: str, tokenizer: Tokenizer) -> Experience:
    """Return the attempt with a first turn that says a text, token by token."""
    first, *rest = experience.trajectory.turns
    ids = tuple(tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)
    logprobs = tuple(-0.5 * (at % 10) for at in range(len(ids)))
    turn: Turn = dataclasses.replace(first, prompt_ids=ids[:5], completion_ids=ids, behavior_logprobs=logprobs, text=text, observation=text)
    trajectory: Trajectory = dataclasses.replace(experience.trajectory, turns=(turn, *rest), answer=text)
    verdict = dataclasses.replace(experience.verdict, evidence=f"it said {text}")
    return dataclasses.replace(experience, trajectory=trajectory, verdict=verdict)


def write_run(folder: Path, groups_per_step: int = 3, size: int = 4) -> Path:
    """Write a run of a few steps, one group of which is hostile and one attempt of which was relabelled."""
    folder.mkdir()
    tokenizer = make_tokenizer([HOSTILE.encode("utf-8", "replace").decode(), "turn of task answer"] * 3)
    (folder / "weights" / "even").mkdir(parents=True)
    tokenizer.save(str(folder / "weights" / "even" / "tokenizer.json"))
    (folder / "recipe.toml").write_text('[run]\nname = "shown"\nsteps = 3\n[environments.code]\n')
    journal = Journal(folder)
    journal.begin_attempt({"recipe": {}}, after_step=0)
    lines = []
    for step in range(1, STEPS + 1):
        groups = []
        for at in range(groups_per_step):
            task = make_task(10 * step + at)
            task = dataclasses.replace(task, payload={"hidden_tests": SECRET})
            if (step, at) == (2, 0):
                task = dataclasses.replace(task, prompt=HOSTILE, family=HOSTILE[:40])
            made = [make_experience(task, sibling, version=f"1.{step - 1}") for sibling in range(size)]
            if (step, at) == (2, 0):
                made = [spoken(e, f"{HOSTILE} sibling{n} zebra", tokenizer) for n, e in enumerate(made)]
            groups.append(Group(id=made[0].group_id, task=task, experiences=tuple(made)))
        journal.append_groups(groups, step=step)
        routes = [
            (e.id, {"experience_id": e.id, "destination": "grpo", "reason": "group with contrast"}) for g in groups for e in g.experiences
        ]
        journal.append_batch(make_batch(step, groups), routes)
        report = {"step": step, "policy_version": f"1.{step}", "metrics": {"loss": 1 / step}, "checkpoint": None}
        journal.append("step", [(f"1.{step}", report)], step=step)
        figures = {"reward/mean": 0.2 * step, "groups/mixed": 0.5, "heldout/toy": 0.3 + 0.1 * step, "solved/toy/family-0/level_2": step / 3}
        figures |= {"curriculum/predicted/toy/family-0/level_2": step / 4, "curriculum/brier": 0.25}
        lines.append(json.dumps({"step": step, "time_s": 0, **figures}))
    parent = make_experience(make_task(10), 0)
    child_task = dataclasses.replace(make_task(99, parent_id=parent.task.id), payload={"hidden_tests": SECRET})
    child = make_experience(child_task, 0, outcome="solved", origin="hindsight")
    journal.append_experiences([child], step=STEPS)
    journal.append_relabellings([Relabelling(parent_id=parent.id, child_id=child.id, relabeller="toy", kept=True)], step=STEPS)
    scores = [{"task_id": str(n), "env": "toy", "family": "family-0", "num_samples": 1, "num_solved": n % 2} for n in range(10)]
    journal.append("evaluation", [("0", {"step": 0, "policy_version": "1.0", "num_masked": 0, "scores": scores})], step=0)
    journal.compact(up_to_step=1)
    journal.close()
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("view") / "shown")
