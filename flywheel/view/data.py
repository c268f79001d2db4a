"""What the window shows, as plain JSON data. It knows nothing of the web; all text in it is as hostile as the policy that wrote it.

A task's payload (hidden tests, references) is in none of it: an exported page may be handed on.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flywheel.errors import ConfigError, StoreError
from flywheel.monitor.jsonl import METRICS_FILE, read_metrics
from flywheel.recipe import load_recipe
from flywheel.statistics import TaskScore, estimate_pass_at
from flywheel.store.lineage import fate_of_attempt, kin_of_task, made_step
from flywheel.store.reader import Reader
from flywheel.types import Experience, Turn
from flywheel.view.search import TextIndex
from flywheel.view.tokens import TokenTexts

PAGE = 40
_SHORT = 300
_FRESH_S = 3.0
# Filters: the name in an address, and the index's column.
FILTERS = ("step", "env", "family", "outcome", "origin", "tier")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Which groups are wanted: those that have an attempt that fits every filter, and holds every word of `words`."""

    filters: dict[str, str]
    words: str = ""
    page: int = 0


class RunData:
    """The data of one run.

    Args:
        run_dir: The run folder.

    Raises:
        StoreError: there is no journal, or it can't be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.reader = Reader.open(run_dir)
        self.index = TextIndex(run_dir, self.reader)
        self._tokens: TokenTexts | None = None
        self._overview: tuple[float, int, dict[str, Any]] | None = None
        self._curves: tuple[tuple[int, int], dict[str, Any]] | None = None

    def close(self) -> None:
        """Close the store and the index."""
        self.index.close()
        self.reader.close()

    def overview(self) -> dict[str, Any]:
        """Return what the run is, how far it has come, its held-out results, and what there is to filter by.

        It counts everything there is, so while a run goes on it may be a few seconds old.
        """
        last_seq = self.reader.last_seq
        if self._overview is None or (self._overview[1] != last_seq and time.monotonic() - self._overview[0] > _FRESH_S):
            self._overview = (time.monotonic(), last_seq, self._counted())
        last = self.reader.query("SELECT coalesce(max(seq), 0) FROM experiences")[0][0]
        return {**self._overview[2], "indexed": 1.0 if not last else min(1.0, self.index.last_seq / last)}

    def _counted(self) -> dict[str, Any]:
        reader = self.reader
        query = reader.query
        steps = query("SELECT coalesce(max(step), 0) FROM records WHERE kind = 'step'")[0][0]
        attempts = [
            {"attempt": int(number), "after_step": json.loads(body).get("after_step", 0)}
            for number, body in query("SELECT id, body FROM records WHERE kind = 'attempt' ORDER BY seq")
        ]
        choices = {
            name: [value for (value,) in query(f"SELECT DISTINCT {name} FROM experiences ORDER BY 1")] for name in FILTERS if name != "step"
        }
        return {
            "name": self.run_dir.resolve().name,
            "recipe": self._recipe(),
            "steps": steps,
            "attempts": attempts,
            "superseded": sorted(reader.superseded()),
            "num_experiences": query("SELECT count(*) FROM experiences")[0][0],
            "num_groups": query("SELECT count(DISTINCT group_id) FROM experiences")[0][0],
            "num_tasks": query("SELECT count(*) FROM tasks")[0][0],
            "num_tokens": query("SELECT coalesce(sum(num_tokens), 0) FROM experiences")[0][0],
            "outcomes": dict(query("SELECT outcome, count(*) FROM experiences GROUP BY outcome ORDER BY 2 DESC")),
            "choices": choices,
            "heldout": self._heldout(),
        }

    def curves(self) -> dict[str, Any]:
        """Return every figure by name: ``[[step, value], …]``."""
        path = self.run_dir / METRICS_FILE
        stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
        if self._curves is None or self._curves[0] != stamp:
            series: dict[str, list[list[float]]] = {}
            for step, found in read_metrics(self.run_dir).items():
                for name, value in found.items():
                    series.setdefault(name, []).append([step, value])
            self._curves = (stamp, {"series": dict(sorted(series.items()))})
        return self._curves[1]

    def groups(self, asked: Asked) -> dict[str, Any]:
        """Return a page of groups, newest first, and how many there are."""
        where = ["1"]
        values: list[Any] = []
        for name, value in asked.filters.items():
            if name in FILTERS and value != "":
                where.append(f"{name} = ?")
                values.append(int(value) if name == "step" and value.isdecimal() and len(value) < 10 else value)
        if asked.words.strip():
            where.append("seq IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(self.index.find(asked.words)))
        chosen = f"FROM experiences WHERE {' AND '.join(where)}"
        total = self.reader.query(f"SELECT count(DISTINCT group_id) {chosen}", values)[0][0]
        page = f"SELECT group_id {chosen} GROUP BY group_id ORDER BY max(seq) DESC LIMIT ? OFFSET ?"
        ids = [group_id for (group_id,) in self.reader.query(page, [*values, PAGE, PAGE * asked.page])]
        return {"total": total, "page": asked.page, "per_page": PAGE, "groups": [self._row(group_id) for group_id in ids]}

    def group(self, group_id: str) -> dict[str, Any] | None:
        """Return a group: its task, and its siblings side by side."""
        if not self.reader.query("SELECT 1 FROM experiences WHERE group_id = ? LIMIT 1", (group_id,)):
            return None
        row = self._row(group_id)
        task: Any = self.reader.get("task", row["task_id"])
        siblings: list[dict[str, Any]] = []
        for sibling in row["siblings"]:
            try:
                siblings.append({**sibling, "problem": None, **self._said(sibling["id"])})
            except StoreError as error:  # dropped, or in a damaged shard: the others can be looked at all the same
                siblings.append({**sibling, "problem": str(error)})
        shown = {name: task[name] for name in ("id", "prompt", "params", "seed", "parent_id", "operator", "split")}
        return {**row, "task": shown, "siblings": siblings}

    def attempt(self, experience_id: str) -> dict[str, Any] | None:
        """Return one attempt turn by turn with its tokens, its verdict and its lineage.

        Raises:
            StoreError: it was dropped from the store, or lies in a damaged shard.
        """
        if self.reader.get("experience", experience_id) is None:
            return None
        experience = self.reader.experience(experience_id)
        info = self.reader.info(experience_id)
        fate = fate_of_attempt(self.reader, info)
        kin = kin_of_task(self.reader, info.task_id)  # a task may have thousands of attempts, whose fates are their own pages'
        versions = sorted({version for use in fate.uses for version in made_step(self.reader, use.step).versions})
        return {
            **asdict(info),
            "prompt": experience.task.prompt,
            "params": dict(experience.task.params),
            "answer": experience.trajectory.answer,
            "stop_reason": experience.trajectory.stop_reason,
            "env_return": experience.trajectory.env_return,
            "checks": [asdict(check) for check in experience.verdict.checks],
            "evidence": experience.verdict.evidence,
            "duration_s": experience.verdict.duration_s,
            "turns": [self._turn(turn) for turn in experience.trajectory.turns],
            "siblings": self._siblings(experience),
            "route": {"destination": fate.destination, "reason": fate.reason, "also": list(fate.also)},
            "uses": [asdict(use) for use in fate.uses],
            "made_versions": versions,
            "became": list(fate.became),
            "came_from": list(fate.came_from),
            "parent_tasks": list(kin.ancestors),
            "child_tasks": list(kin.children),
        }

    # ------------------------------------------------------------ inside

    def _row(self, group_id: str) -> dict[str, Any]:
        asked = (
            "SELECT e.id, e.step, e.task_id, e.env, e.family, e.origin, e.outcome, e.reward, e.tier, e.num_tokens, "
            "(SELECT t.advantage FROM trained t WHERE t.experience_id = e.id AND t.kind = 'grpo' ORDER BY t.batch_seq DESC LIMIT 1) "
            "FROM experiences e WHERE e.group_id = ? ORDER BY e.seq"
        )
        rows = self.reader.query(asked, (group_id,))
        first = rows[0]
        try:
            prompt = (self.reader.get("task", first[2]) or {"prompt": ""})["prompt"]
        except StoreError as error:
            prompt = str(error)
        names = ("id", "outcome", "reward", "tier", "num_tokens", "advantage", "origin")
        siblings = [dict(zip(names, (r[0], r[6], r[7], r[8], r[9], r[10], r[5]), strict=True)) for r in rows]
        return {
            "id": group_id,
            "step": first[1],
            "task_id": first[2],
            "env": first[3],
            "family": first[4],
            "prompt": prompt[:_SHORT],
            "siblings": siblings,
        }

    def _said(self, experience_id: str) -> dict[str, Any]:
        data: Any = self.reader.get("experience", experience_id)
        turns = data["trajectory"]["turns"]
        return {
            "answer": data["trajectory"]["answer"],
            "stop_reason": data["trajectory"]["stop_reason"],
            "num_turns": len(turns),
            "last": turns[-1]["text"] if turns else "",
            "evidence": data["verdict"]["evidence"],
            "checks": data["verdict"]["checks"],
        }

    def _siblings(self, experience: Experience) -> list[str]:
        return [e for (e,) in self.reader.query("SELECT id FROM experiences WHERE group_id = ? ORDER BY seq", (experience.group_id,))]

    def _turn(self, turn: Turn) -> dict[str, Any]:
        self._tokens = self._tokens or TokenTexts(self.run_dir)
        return {
            "policy_version": turn.policy_version,
            "text": turn.text,
            "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in turn.tool_calls],
            "observation": turn.observation,
            "prompt_tokens": self._tokens.texts(turn.prompt_ids),
            "tokens": self._tokens.texts(turn.completion_ids),
            "logprobs": list(turn.behavior_logprobs) if turn.behavior_logprobs is not None else None,
        }

    def _heldout(self) -> list[dict[str, Any]]:
        found = []
        for record in self.reader.select("evaluation"):
            scores = [TaskScore(**score) for score in record["scores"]]
            estimates = {name: asdict(estimate) for name, estimate in estimate_pass_at(scores).items()} if scores else {}
            found.append({"step": record["step"], "estimates": estimates})
        return found

    def _recipe(self) -> dict[str, Any]:
        try:
            recipe = load_recipe(str(self.run_dir / "recipe.toml"))
        except ConfigError:  # there is none, or it is another version's
            return {}
        return {
            "model": recipe.policy.model,
            "steps": recipe.run.steps,
            "seed": recipe.run.seed,
            "engine": recipe.engine.kind,
            "groups_per_step": recipe.rollout.groups_per_step,
            "group_size": recipe.rollout.group_size,
            "max_staleness": recipe.rollout.max_staleness,
            "learning_rate": recipe.trainer.learning_rate,
            "environments": list(recipe.environments),
        }
