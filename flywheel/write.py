"""``python -m flywheel.write OUT.jsonl --url … --model …``: has a model write tasks for an environment, and keeps those that hold.

OUT.jsonl gets a task record a line, reference solution included: give it to a recipe as ``environments.NAME.tasks_file``. What was
refused goes to OUT.rejected.jsonl, a line each with the reason. Both are appended to; tasks that are there already count as known.
Any OpenAI-compatible endpoint will do, the vLLM server of a run among them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flywheel import sandbox
from flywheel.config import SandboxConfig, TasksConfig
from flywheel.contracts import TaskAuthor
from flywheel.errors import ConfigError, FlywheelError
from flywheel.records import read_records
from flywheel.registry import resolve
from flywheel.sandbox.backends import find_backend
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import EndpointModel
from flywheel.tasks.documents import SUFFIXES, document_blocks
from flywheel.tasks.records import asked, task_records
from flywheel.tasks.round_trip import RoundTrip
from flywheel.tasks.writer import TaskWriter
from flywheel.tasks.writing_prompts import Method, evol_instruct, from_documents, from_problems, oss_instruct, self_instruct
from flywheel.types import to_json

METHODS = ("self_instruct", "evol_instruct", "oss_instruct", "document", "formalise")
NEAR_DUPLICATE = 0.7


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 where the model can't be asked, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.write", description=__doc__.split("\n\n")[1] if __doc__ else None)
    parser.add_argument("out", type=Path, help="file of task records to append to")
    parser.add_argument("--env", default="code", help="environment to write for (default: code)")
    parser.add_argument("--url", required=True, help="base address of the endpoint, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True, help="the model's name there")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key, if one is needed")
    parser.add_argument("--methods", nargs="+", default=["self_instruct", "evol_instruct"], choices=METHODS)
    parser.add_argument("--source", type=Path, help="oss_instruct: a folder of source files")
    parser.add_argument("--documents", type=Path, nargs="+", help=f"document: files, or folders of them, that end in {', '.join(SUFFIXES)}")
    parser.add_argument(
        "--problems", type=Path, help="formalise: a file of records (JSON lines) with a problem in words each, its 'problem'"
    )
    parser.add_argument("--judge-model", help="formalise: the model that reads each task back and compares it with its problem")
    parser.add_argument("--judge-url", help="base address of the judge's endpoint (default: --url)")
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the environment's author, such as header='import Mathlib'",
    )
    parser.add_argument("--decontaminate", type=Path, nargs="*", default=[], help="evaluation files (JSON lines) to keep clear of")
    parser.add_argument("--requests", type=int, default=100, help="how often to ask (default: 100)")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sandbox", default="bubblewrap", help="sandbox backend for trying tasks out")
    args = parser.parse_args(argv)
    if min(args.requests, args.concurrency, args.max_tokens) < 1 or args.temperature < 0:
        parser.error("--requests, --concurrency and --max-tokens must be at least 1, and --temperature at least 0")
    try:
        counts = asyncio.run(_write(args))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # what was kept so far is in the file
        return 130
    finally:
        sandbox.close_shared()
    print(f"kept {counts.pop('kept', 0)} of {args.requests} in {args.out}; {counts.pop('tokens', 0)} tokens sampled")
    for reason, count in counts.most_common(10):
        print(f"  {count:4d} refused: {reason}")
    return 0


async def _write(args: argparse.Namespace) -> Counter[str]:
    config = SandboxConfig(backend=args.sandbox)
    find_backend(config)
    sandbox.configure(config)
    rejected = args.out.with_suffix(".rejected.jsonl")
    try:
        for path in (args.out, rejected):
            path.open("a").close()
    except OSError as error:
        raise ConfigError(f"{args.out}: can't be written: {error.strerror}; is there a folder {args.out.parent}?") from None
    env = resolve("envs", args.env)
    author = _author(env, args)
    name, task_key = getattr(env, "name", args.env), getattr(env, "task_key", asked)
    rules = TasksConfig(near_duplicate=NEAR_DUPLICATE, avoid_repeats=True, decontaminate=args.decontaminate)
    admission = Admission(rules, lambda task: f"{task.env}\0{task_key(task)}")
    if args.out.exists() and args.out.stat().st_size:
        for task in task_records(args.out, name):
            admission.remember(task, f"{task.env}\0{task_key(task)}", is_prose=True)
    key = os.environ.get(args.api_key_env)
    model = EndpointModel(args.url, args.model, api_key=key, max_tokens=args.max_tokens, temperature=args.temperature)
    judge = None
    if args.judge_model is not None:
        judge = EndpointModel(args.judge_url or args.url, args.judge_model, api_key=key, max_tokens=args.max_tokens, temperature=0.0)
    writer = TaskWriter(
        model,
        author,
        task_key=task_key,
        admission=admission,
        methods=_methods(args),
        seed=args.seed,
        concurrency=args.concurrency,
        judge=None if judge is None else RoundTrip(judge),
    )
    counts: Counter[str] = Counter()
    with args.out.open("a", encoding="utf-8") as kept, rejected.open("a", encoding="utf-8") as refused:
        async for written in writer.write(args.requests):
            counts["tokens"] += written.num_tokens
            counts[written.reason.split(":")[0] if written.reason else "kept"] += 1
            if written.task is not None:
                _line(kept, written.task)
            else:
                _line(refused, {"operator": written.operator, "reason": written.reason, "reply": written.reply})
    await model.close()
    if judge is not None:
        await judge.close()
    return counts


def _author(env: Any, args: argparse.Namespace) -> TaskAuthor:
    pairs = [one.partition("=") for one in args.author]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise ConfigError(f"--author: {wrong[0]!r} is not NAME=VALUE")
    try:
        author: TaskAuthor | None = env.author(**{name: value for name, _, value in pairs}) if hasattr(env, "author") else None
    except TypeError as error:
        raise ConfigError(f"--author: {error}") from None
    if author is None:
        raise ConfigError(f"--env: the environment {args.env!r} has no author for model-written tasks (ToolEnv.author)")
    return author


def _problem(record: dict[str, Any]) -> str:
    problem = record.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(f"problem is {problem!r:.80}, expected a problem in words")
    return problem.strip()


def _methods(args: argparse.Namespace) -> list[Method]:
    made: dict[str, Method] = {"self_instruct": self_instruct, "evol_instruct": evol_instruct}
    if "oss_instruct" in args.methods:
        if args.source is None or not args.source.is_dir():
            raise ConfigError(f"oss_instruct needs --source, a folder of source files; got {args.source}")
        made["oss_instruct"] = oss_instruct(sorted(path for path in args.source.rglob("*.py") if path.is_file() and path.stat().st_size))
    if "document" in args.methods:
        made["document"] = from_documents([path for one in args.documents or () for path in _documents(one)])
    if "formalise" in args.methods:
        if args.problems is None:
            raise ConfigError("formalise needs --problems, a file of records with a 'problem' each")
        made["formalise"] = from_problems(list(read_records(args.problems, _problem)))
    return [made[name] for name in args.methods]


def _documents(given: Path) -> list[Path]:
    """Return a document, or a folder's; those that have no text to make a task of are left out there, and said."""
    if not given.is_dir():
        return [given]
    found = []
    for path in sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        try:
            document_blocks(path)
            found.append(path)
        except ConfigError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def _line(file: Any, record: Any) -> None:
    # A lone surrogate, which a model's JSON may hold, is written as JSON spells it.
    file.write(json.dumps(json.loads(to_json(record)), ensure_ascii=True) + "\n")
    file.flush()


if __name__ == "__main__":
    sys.exit(main())
