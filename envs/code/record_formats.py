"""Published problem sets as task records: one function for each usual shape of JSON lines (HumanEval, MBPP, APPS).

In a recipe::

    [environments.code]
    tasks_file = "HumanEval.jsonl"
    tasks_format = "humaneval"

`flywheel.envs.code.problem_sets` shows whether a set's own solutions pass its tests.

What tests compare with (helper functions of a prompt, say) they get from the record itself, never from the answer. Nothing is
downloaded here, and no solution runs while a record is read.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from flywheel.records import parse_json

Record = Mapping[str, Any]
LIMITS = {"wall_s": 10.0, "memory_mb": 512}
# What solutions of programming sites take for granted.
SITE_IMPORTS = (
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\nfrom itertools import *\n"
    "from math import *\nfrom typing import *\nfrom builtins import pow\n"  # of math's own, which takes no modulus
    "import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys\n"
)


def humaneval(record: Record) -> dict[str, Any]:
    """Return the task record of a HumanEval record (``task_id``, ``prompt``, ``entry_point``, ``test``, ``canonical_solution``).

    The test defines ``check(candidate)``. Imports and helper functions of the prompt come before the answer, and before the test.

    Raises:
        ValueError: it has another shape.
    """
    prompt, name, test = (_text(record, field) for field in ("prompt", "entry_point", "test"))
    if name == "check":
        raise ValueError("entry_point is 'check', which is what the test calls itself")
    if "check" not in _defined(test):
        raise ValueError("test defines no function check(candidate)")
    prelude = _without(prompt, name)
    source = f"{prelude}\n{test}\ncheck({name})\n"
    payload = {"entry_point": name, "prelude": prelude, "hidden_tests": [_assert(source)], "limits": LIMITS}
    if solution := record.get("canonical_solution"):
        payload["reference"] = f"{prompt}{solution}"
    task = f"Complete this function and submit the whole of it.\n\n{prompt}"
    return {"id": str(record.get("task_id", name)), "env": "code", "family": "humaneval", "prompt": task, "payload": payload}


def mbpp(record: Record) -> dict[str, Any]:
    """Return the task record of an MBPP record (``text`` or ``prompt``, ``code``, ``test_list``, ``test_setup_code``, …).

    The first test is shown, as is usual: it says what the function is called. Where the tests use more than one name of the
    solution's (a class, say), they hold its objects as handles, at the lower trust of that mode.

    Raises:
        ValueError: it has another shape.
    """
    text = _text(record, "text" if "text" in record else "prompt")
    tests = _texts(record, "test_list")
    setup = "\n".join([*_texts(record, "test_imports", []), record.get("test_setup_code") or ""]).strip()
    sources = [f"{setup}\n{test}".strip() for test in [*tests, *_texts(record, "challenge_test_list", [])]]
    code = _text(record, "code")
    used = _defined(code) & {node.id for source in sources for node in ast.walk(_parse(source)) if isinstance(node, ast.Name)}
    if not used:
        raise ValueError(f"test_list uses none of the names that code defines: {sorted(_defined(code))}")
    name = next(iter(used)) if len(used) == 1 else None
    payload = {
        "entry_point": name,
        "public_tests": [_assert(sources[0])],
        "hidden_tests": [_assert(source) for source in sources[1:]],
        "handles": name is None,
        "limits": LIMITS,
        "reference": code,
    }
    task = f"{text.strip()}\nYour code must pass this test:\n{tests[0]}"
    return {"id": f"mbpp/{record.get('task_id', name)}", "env": "code", "family": "mbpp", "prompt": task, "payload": payload}


def apps(record: Record) -> dict[str, Any]:
    """Return the task record of an APPS record (``question``, ``input_output``, ``starter_code``, ``solutions``).

    `input_output` and `solutions` may be JSON in a string. With ``fn_name`` its inputs are arguments, and the answer a function or a
    method of a class ``Solution``; otherwise they are standard input, and the answer a program, whose output is compared as the set's
    own checker does it: by words, and by numbers within a tolerance (`flywheel.sandbox.outputs`). That checker would also take the words
    of a line in any order, which is not done here. The first test is shown.

    Raises:
        ValueError: it has another shape.
    """
    question = _text(record, "question")
    cases = _json(record, "input_output")
    if cases in (None, ""):
        raise ValueError("input_output is empty, so nothing judges an answer; leave such records out of the file")
    if not isinstance(cases, Mapping) or not isinstance(cases.get("inputs"), list) or not isinstance(cases.get("outputs"), list):
        raise ValueError("input_output has no inputs and outputs, expected two lists")
    inputs, outputs = cases["inputs"], cases["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"input_output has {len(inputs)} inputs and {len(outputs)} outputs, expected as many of one as of the other")
    name = cases.get("fn_name")
    if name is None:
        tests = [
            {"kind": "io", "stdin": _lines(i), "stdout": _lines(o), "compare": "numbers"} for i, o in zip(inputs, outputs, strict=True)
        ]
        prelude = ""
    else:
        if not isinstance(name, str) or not name.isidentifier() or not all(isinstance(args, list) for args in inputs):
            raise ValueError("input_output has a fn_name, expected a function's name, and a list of arguments as each input")
        wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
        values = [output[0] for output in outputs] if wrapped else outputs
        tests = [{"kind": "call", "args": args, "expected": value} for args, value in zip(inputs, values, strict=True)]
        prelude = f"{SITE_IMPORTS}def {name}(*args):\n    return Solution().{name}(*args)\n"
    shown = 1 if len(tests) > 1 else 0
    payload = {"entry_point": name, "prelude": prelude, "public_tests": tests[:shown], "hidden_tests": tests[shown:], "limits": LIMITS}
    solutions = _json(record, "solutions") if record.get("solutions") else []
    if isinstance(solutions, list) and solutions:
        payload["reference"] = solutions[0]
    starter = str(record.get("starter_code") or "").strip()
    manner = (
        "Read standard input and write standard output." if name is None else f"Begin with:\n{starter}" if starter else f"Write {name}."
    )
    own = record.get("problem_id", record.get("id", ""))
    return {"id": f"apps/{own}", "env": "code", "family": "apps", "prompt": f"{question.strip()}\n\n{manner}", "payload": payload}


FORMATS: Mapping[str, Callable[[Record], dict[str, Any]]] = {"humaneval": humaneval, "mbpp": mbpp, "apps": apps}


# ---------------------------------------------------------------- reading


def _text(record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} is {type(value).__name__ if value is not None else 'missing'}, expected text")
    return value


def _texts(record: Record, field: str, default: list[str] | None = None) -> list[str]:
    value = record.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or (default is None and not value):
        raise ValueError(f"{field} is {type(value).__name__ if value is not None else 'missing'}, expected a list of texts")
    return value


def _json(record: Record, field: str) -> Any:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{field} is text that is not JSON: {error}") from None


def _lines(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if not isinstance(value, str):
        raise ValueError(f"input_output holds {type(value).__name__}, expected text or a list of lines")
    return value


def _assert(source: str) -> dict[str, Any]:
    return {"kind": "assert", "source": source}


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {error}") from None


def _without(prompt: str, name: str) -> str:
    """Return a prompt's imports and helpers: all of it but the function that is asked for, whose body is missing."""
    try:
        tree = ast.parse(prompt)  # a docstring is a body
    except (SyntaxError, ValueError):
        tree = _parse(f"{prompt.rstrip()}\n    pass\n")
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not wanted:
        raise ValueError(f"prompt defines no function {name!r}")
    return "\n".join(ast.unparse(node) for node in tree.body if node is not wanted[-1])


def _defined(code: str) -> set[str]:
    """Return the functions and classes that a solution defines, and names that it binds to one."""
    names = set()
    for node in _parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names
