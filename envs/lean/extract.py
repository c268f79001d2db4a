"""``python -m flywheel.envs.lean.extract PROJECT|TRACE_DIR``: theorems of a Lake project as task records, through LeanDojo.

Writes a task record a line: the header (the file up to the theorem, without comments), the statement, the file, the premises, and in the
payload the human proof as reference and its tactics with the states before and after them. A folder that holds LeanDojo's ``*.trace.xml``
files is read as it is, without network; a git repository (a local folder, or ``URL@COMMIT``) is traced first, which needs Lean, the
network and time. LeanDojo comes with ``pip install 'flywheel[lean]'`` and wants Python below 3.13.

A proof that is not ``:= term`` (equations, ``where``) or that the lexical gate refuses is left out of its record; a statement that is no
single theorem leaves out the record.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flywheel.errors import ConfigError
from flywheel.types import Task, to_json
from flywheel.verifiers.lean_gate import read_statement, refuse_answer

FAMILY = "extracted"
_SERIAL = 200  # traced files below which LeanDojo's worker processes cost more than they save


def read_traced(source: str) -> Any:
    """Return LeanDojo's `TracedRepo` of a trace folder, or of a project that is traced now.

    Raises:
        ConfigError: LeanDojo is not installed, `source` is neither, or LeanDojo can't read or trace it.
    """
    folder = Path(source)
    traces = list(folder.glob("**/*.trace.xml")) if folder.is_dir() else []
    url, at, commit = source.rpartition("@")
    if not folder.is_dir() and not (at and url):
        raise ConfigError(f"{source!r} is no folder of traces, no git repository and no URL@COMMIT")
    if traces:
        os.environ.setdefault("DISABLE_REMOTE_CACHE", "1")  # read when LeanDojo is imported
        if len(traces) < _SERIAL:
            os.environ.setdefault("NUM_PROCS", "2")
    dojo = _lean_dojo()
    try:
        if traces:
            # The versions of dependencies are looked up on GitHub, and only a graph of imports would need them.
            with patch.object(dojo.LeanGitRepo, "get_dependencies", lambda self, path=None: {}):
                return dojo.TracedRepo.load_from_disk(folder, build_deps=False)
        return dojo.trace(dojo.LeanGitRepo.from_path(folder) if folder.is_dir() else dojo.LeanGitRepo(url, commit))
    except Exception as error:  # whatever git, the network, a build or a parser says there
        needs = "a folder of traces is a git repository" if traces else "tracing needs a git repository, elan, Lean and the network"
        raise ConfigError(f"LeanDojo can't {'read' if traces else 'trace'} {source!r} ({needs}): {_brief(error)}") from error


def records(traced: Any, project: str | None, dropped: Counter[str]) -> Iterator[Task]:
    """Yield a task for each theorem of a traced project's own files, counting what is left out and why.

    Args:
        traced: LeanDojo's `TracedRepo`.
        project: The Lake project that the tasks name; None for Lean's own library.
        dropped: Counts theorems, or proofs, by the reason for which they are left out.
    """
    for file in sorted(traced.traced_files, key=lambda one: str(one.path)):
        if str(file.path).startswith(".lake/"):
            continue
        starts = _declaration_starts(file)
        for theorem in file.get_traced_theorems():
            try:
                task = _record(file, theorem, starts, project, dropped)
            except Exception:  # noqa: BLE001 - LeanDojo asserts much of what it reads; one theorem must not cost the rest
                dropped["that LeanDojo can't read"] += 1
                continue
            if task is not None:
                yield task


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 where nothing could be read."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.envs.lean.extract", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("source", metavar="PROJECT|TRACE_DIR", help="a folder of traces, a git repository, or URL@COMMIT")
    parser.add_argument("--out", type=Path, help="write here instead of standard output")
    parser.add_argument("--project", help="the built Lake project that the tasks name (default: the folder, where it has a lakefile)")
    args = parser.parse_args(argv)
    folder = Path(args.source)
    has_lakefile = any((folder / name).is_file() for name in ("lakefile.lean", "lakefile.toml"))
    project = args.project or (str(folder.resolve()) if has_lakefile else None)
    try:
        traced = read_traced(args.source)
        sink = args.out.open("w", encoding="utf-8") if args.out else sys.stdout
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    dropped: Counter[str] = Counter()
    number = 0
    try:
        for task in records(traced, project, dropped):
            sink.write(to_json(task) + "\n")
            number += 1
    finally:
        if args.out:
            sink.close()
    reasons = "".join(f", {count} {reason}" for reason, count in sorted(dropped.items()))
    print(f"{number} theorems{reasons}", file=sys.stderr)
    return 0 if number else 1


def _lean_dojo() -> Any:
    try:
        import lean_dojo
    except ImportError as error:
        raise ConfigError(f"LeanDojo can't be imported ({error}): pip install 'flywheel[lean]' (Python below 3.13)") from error
    return lean_dojo


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"


def _declaration_starts(file: Any) -> dict[Any, Any]:
    """Return where each theorem's declaration begins, its attributes and comments included, by where the theorem does."""
    starts = {}

    def visit(node: Any, parents: list[Any]) -> None:
        kind = type(node).__name__
        if kind == "CommandDeclarationNode" and node.is_theorem:
            starts[tuple(node.get_theorem_node().start)] = node.start
        elif kind in ("LemmaNode", "MathlibTacticLemmaNode"):
            starts[tuple(node.start)] = node.start

    file.traverse_preorder(visit)
    return starts


def _record(file: Any, theorem: Any, starts: dict[Any, Any], project: str | None, dropped: Counter[str]) -> Task | None:
    from lean_dojo.data_extraction.traced_data import get_code_without_comments

    node = theorem.ast
    begins = node.children[1].start if type(node).__name__ in ("LemmaNode", "MathlibTacticLemmaNode") else node.start
    proof_start, proof_end = theorem.locate_proof()
    header = get_code_without_comments(file.lean_file, file.lean_file.start_pos, starts[tuple(node.start)], file.comments).strip()
    said = get_code_without_comments(file.lean_file, begins, proof_start, theorem.comments).strip()
    is_term = said.endswith(":=")
    statement = said.removesuffix(":=").removesuffix(" where").strip()
    try:
        read_statement(statement)
    except ValueError:
        dropped["statements left out"] += 1
        return None
    payload: dict[str, Any] = {
        "header": header,
        "statement": statement,
        "project": project,
        "file": str(file.path),
        "theorem": theorem.theorem.full_name,
        "premises": sorted(set(theorem.get_premise_full_names())),
        "tactics": [
            {"before": step.state_before, "tactic": step.tactic, "after": step.state_after} for step in theorem.get_traced_tactics()
        ],
    }
    proof = get_code_without_comments(file.lean_file, proof_start, proof_end, theorem.comments).strip()
    if is_term and refuse_answer(proof) is None:
        payload["reference"] = proof
    else:
        dropped["proofs left out"] += 1
    return Task.create(env="lean", family=FAMILY, prompt=f"Prove in Lean 4:\n{statement}", payload=json.loads(json.dumps(payload)))


if __name__ == "__main__":
    sys.exit(main())
