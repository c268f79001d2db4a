"""Loaders of published problem sets, on small records in their shapes: own solutions pass the verifier, cheats don't."""

# ruff: noqa: E501 - records are lines of data
from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.envs.code.problem_sets import main
from flywheel.envs.code.record_formats import FORMATS
from flywheel.errors import ConfigError
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.code import CodeVerifier

# The awkward cases of the real sets: helpers that the test needs, imports in prompt and test, tolerances, tuples, exceptions.
HUMANEVAL: dict[str, dict[str, Any]] = {
    "polynomial": {
        "task_id": "Sample/32",
        "prompt": 'import math\n\n\ndef poly(xs: list, x: float):\n    """\n    Evaluates polynomial with coefficients xs at point x.\n    """\n    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])\n\n\ndef find_zero(xs: list):\n    """ xs are coefficients of a polynomial.\n    >>> round(find_zero([1, 2]), 2) # f(x) = 1 + 2x\n    -0.5\n    """\n',
        "entry_point": "find_zero",
        "canonical_solution": "    begin, end = -1., 1.\n    while poly(xs, begin) * poly(xs, end) > 0:\n        begin *= 2.0\n        end *= 2.0\n    while end - begin > 1e-10:\n        center = (begin + end) / 2.0\n        if poly(xs, center) * poly(xs, begin) > 0:\n            begin = center\n        else:\n            end = center\n    return begin\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    import random\n    import copy\n    rng = random.Random(42)\n    for _ in range(20):\n        coeffs = [rng.randint(-10, 10) or 1 for _ in range(2)]\n        solution = candidate(copy.deepcopy(coeffs))\n        assert math.fabs(poly(coeffs, solution)) < 1e-4\n\n",
    },
    "cyclic": {
        "task_id": "Sample/38",
        "prompt": '\n\ndef encode_cyclic(s: str):\n    """\n    returns encoded string by cycling groups of three characters.\n    """\n    groups = [s[(3 * i):min((3 * i + 3), len(s))] for i in range((len(s) + 2) // 3)]\n    groups = [(group[1:] + group[0]) if len(group) == 3 else group for group in groups]\n    return "".join(groups)\n\n\ndef decode_cyclic(s: str):\n    """\n    takes as input string encoded with encode_cyclic function. Returns decoded string.\n    """\n',
        "entry_point": "decode_cyclic",
        "canonical_solution": "    return encode_cyclic(encode_cyclic(s))\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    from random import randint, choice\n    import string\n\n    letters = string.ascii_lowercase\n    for _ in range(30):\n        str = ''.join(choice(letters) for i in range(randint(10, 20)))\n        encoded_str = encode_cyclic(str)\n        assert candidate(encoded_str) == str\n\n",
    },
    "tuples": {
        "task_id": "Sample/8",
        "prompt": 'from typing import List, Tuple\n\n\ndef sum_product(numbers: List[int]) -> Tuple[int, int]:\n    """ Sum and product.\n    >>> sum_product([])\n    (0, 1)\n    """\n',
        "entry_point": "sum_product",
        "canonical_solution": "    sum_value = 0\n    prod_value = 1\n\n    for n in numbers:\n        sum_value += n\n        prod_value *= n\n    return sum_value, prod_value\n",
        "test": "\n\nMETADATA = {\n    'author': 'jt'\n}\n\n\ndef check(candidate):\n    assert candidate([]) == (0, 1)\n    assert candidate([3, 5, 7]) == (3 + 5 + 7, 3 * 5 * 7)\n",
    },
    "tolerance": {
        "task_id": "Sample/4",
        "prompt": 'def mean_absolute_deviation(numbers):\n    """ Mean absolute deviation. """\n',
        "entry_point": "mean_absolute_deviation",
        "canonical_solution": "    mean = sum(numbers) / len(numbers)\n    return sum(abs(x - mean) for x in numbers) / len(numbers)\n",
        "test": "def check(candidate):\n    assert abs(candidate([1.0, 2.0, 3.0]) - 2.0/3.0) < 1e-6\n    assert True, 'This prints if this assert fails 2 (also good for debugging!)'\n",
    },
    "names itself": {
        "task_id": "Sample/33",
        "prompt": "FIX = 'tests'\n\n\ndef sort_third(xs: list):\n  # two spaces, and no docstring\n",
        "entry_point": "sort_third",
        "canonical_solution": "  xs = list(xs)\n  xs[::3] = sorted(xs[::3])\n  return xs\n",
        "test": "def check(candidate):\n    assert tuple(candidate([1, 2, 3])) == tuple(sort_third([1, 2, 3]))\n    assert candidate([5, 6, 3, 4, 8]) == [4, 6, 3, 5, 8], FIX\n",
    },
    "nothing": {
        "task_id": "Sample/12",
        "prompt": 'from typing import List, Optional\n\n\ndef longest(strings: List[str]) -> Optional[str]:\n    """ Longest string, or None.\n    """\n',
        "entry_point": "longest",
        "canonical_solution": "    if not strings:\n        return None\n\n    maxlen = max(len(x) for x in strings)\n    for s in strings:\n        if len(s) == maxlen:\n            return s\n",
        "test": "def check(candidate):\n    assert candidate([]) == None\n    assert candidate(['x', 'yyy', 'zz']) == 'yyy'\n",
    },
}
MBPP: dict[str, dict[str, Any]] = {
    "plain": {
        "task_id": 2,
        "text": "Find the shared elements.",
        "code": "def similar_elements(a, b):\r\n  return tuple(set(a) & set(b))\r\n",
        "test_setup_code": "",
        "test_list": [
            "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
            "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)",
        ],
        "challenge_test_list": [],
    },
    "imports": {
        "task_id": 82,
        "prompt": "Volume of a sphere.",
        "code": "import math\ndef volume_sphere(r):\n  return (4/3)*math.pi*r*r*r\n",
        "test_imports": ["import math"],
        "test_list": [
            "assert math.isclose(volume_sphere(10), 4188.790204786391, rel_tol=0.001)",
            "assert math.isclose(volume_sphere(25), 65449.84694978735, rel_tol=0.001)",
        ],
    },
    "helper": {
        "task_id": 5,
        "text": "Largest prime factor.",
        "code": "def is_prime(n):\n  return n > 1 and all(n % d for d in range(2, n))\ndef largest(n):\n  return max(d for d in range(2, n + 1) if n % d == 0 and is_prime(d))\n",
        "test_list": ["assert largest(12) == 3", "assert largest(35) == 7"],
    },
    "objects": {
        "task_id": 927,
        "text": "Height of a tree.",
        "code": "class Node:\n  def __init__(self, data):\n    self.data = data\n    self.left = None\n    self.right = None\ndef max_height(node):\n  return 0 if node is None else 1 + max(max_height(node.left), max_height(node.right))\n",
        "test_setup_code": "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(4)\nroot1 = Node(5)",
        "test_list": ["assert (max_height(root)) == 3", "assert (max_height(root1)) == 1"],
    },
    "sets": {
        "task_id": 7,
        "text": "Words of four letters or more.",
        "code": "import re\ndef words(text):\n  return re.findall(r'\\b\\w{4,}\\b', text)\n",
        "test_list": ["assert set(words('Please move back')) == set(['Please', 'move', 'back'])", "assert words('') == []"],
    },
}
APPS: dict[str, dict[str, Any]] = {
    "program": {
        "problem_id": 1,
        "question": "Double it.",
        "input_output": json.dumps({"inputs": ["2\n", "5\n", ["3", "9"]], "outputs": ["4\n", "10 \n\n", ["6"]]}),
        "solutions": json.dumps(["n = int(input())\nprint(2 * n)\n", "x"]),
        "starter_code": "",
    },
    "function": {
        "problem_id": 2,
        "question": "Add.",
        "input_output": {"fn_name": "add", "inputs": [[1, 2], [[], []]], "outputs": [[3], [[]]]},
        "solutions": ["def add(a, b):\n    return a + b\n"],
    },
    "method": {
        "problem_id": 3,
        "question": "Evens.",
        "input_output": json.dumps({"fn_name": "evens", "inputs": [[[1, 2, 4]], [[3]]], "outputs": [[2, 4], []]}),
        "solutions": json.dumps(
            [
                "class Solution:\n    def evens(self, xs: List[int]) -> List[int]:\n        return list(filter(lambda x: pow(x, 1, 2) == 0 <= bisect_left(xs, x), xs))\n"
            ]
        ),
        "starter_code": "class Solution:\n    def evens(self, xs: List[int]) -> List[int]:\n",
    },
    "no solution": {"id": 4, "question": "Say hello.", "input_output": json.dumps({"inputs": [""], "outputs": ["hello"]}), "solutions": ""},
}
SETS: dict[str, dict[str, dict[str, Any]]] = {"humaneval": HUMANEVAL, "mbpp": MBPP, "apps": APPS}
SOLVED = [(name, case) for name, records in SETS.items() for case, record in records.items() if record.get("solutions") != ""]


def made(name: str, case: str) -> Task:
    return Task.from_json(FORMATS[name](SETS[name][case]))


def judged(task: Task, answer: str | None) -> Verdict:
    return CodeVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer))


@pytest.mark.parametrize(("name", "case"), SOLVED)
def test_own_solutions_are_solved_and_nothing_else_is(name: str, case: str) -> None:
    task = made(name, case)
    reference = task.payload["reference"]
    assert judged(task, reference).outcome == "solved"
    defined = [line for line in reference.splitlines() if line.startswith(("def ", "class "))]
    trivial = "\n".join(f"{line}\n    pass" for line in defined) if name != "apps" or task.payload["entry_point"] else "print(1)"
    assert judged(task, trivial).outcome == "failed"
    assert reference not in task.prompt


def test_the_function_alone_is_an_answer() -> None:
    task = made("humaneval", "cyclic")
    assert judged(task, "def decode_cyclic(s):\n    return encode_cyclic(encode_cyclic(s))\n").outcome == "solved"


def test_a_helper_that_the_test_uses_is_not_the_answers() -> None:
    cheat = "def poly(xs, x):\n    return 0\ndef encode_cyclic(s):\n    return s\ndef find_zero(xs):\n    return 0.0\ndef decode_cyclic(s):\n    return s\n"
    assert judged(made("humaneval", "polynomial"), cheat).outcome == "failed"
    assert judged(made("humaneval", "cyclic"), cheat).outcome == "failed"


def test_fields() -> None:
    task = made("mbpp", "plain")
    assert (task.source_id, task.family, task.payload["entry_point"], task.payload["handles"]) == (
        "mbpp/2",
        "mbpp",
        "similar_elements",
        False,
    )
    assert task.prompt.endswith("assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)")
    assert made("mbpp", "objects").payload["handles"] is True
    assert made("apps", "function").payload["hidden_tests"] == [{"kind": "call", "args": [[], []], "expected": []}]
    assert made("apps", "method").payload["hidden_tests"] == [{"kind": "call", "args": [[3]], "expected": []}]
    assert made("apps", "program").payload["hidden_tests"][1] == {"kind": "io", "stdin": "3\n9", "stdout": "6", "compare": "numbers"}
    assert made("humaneval", "tuples").prompt.endswith(HUMANEVAL["tuples"]["prompt"])


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "no test": ("humaneval", {**HUMANEVAL["tuples"], "test": None}, "test is missing, expected text"),
    "test without check": ("humaneval", {**HUMANEVAL["tuples"], "test": "assert f(1)"}, "test defines no function check(candidate)"),
    "another entry point": ("humaneval", {**HUMANEVAL["tuples"], "entry_point": "g"}, "prompt defines no function 'g'"),
    "prompt that is no Python": ("humaneval", {**HUMANEVAL["tuples"], "prompt": "Write a function."}, "not Python"),
    "tests as text": ("mbpp", {**MBPP["plain"], "test_list": "assert 1"}, "test_list is str, expected a list of texts"),
    "tests of something else": ("mbpp", {**MBPP["plain"], "test_list": ["assert g(1)"]}, "uses none of the names that code defines"),
    "no cases": ("apps", {**APPS["program"], "input_output": "{}"}, "expected two lists"),
    "cases that are no JSON": ("apps", {**APPS["program"], "input_output": "{"}, "input_output is text that is not JSON"),
    "no cases at all": ("apps", {**APPS["program"], "input_output": ""}, "leave such records out"),
    "uneven cases": ("apps", {**APPS["program"], "input_output": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0 outputs"),
    "arguments that are no list": (
        "apps",
        {**APPS["function"], "input_output": {"fn_name": "f", "inputs": [1], "outputs": [1]}},
        "a list of arguments",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_another_shape_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, record, why = BROKEN[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        FORMATS[kind](record)
    assert why in str(caught.value)
    file = tmp_path / "set.jsonl"
    file.write_text(f"\n{json.dumps(record)}\n", "utf-8")
    assert main([kind, str(file)]) == 1
    assert f"{file}:2: " in capsys.readouterr().err


def test_a_recipe_reads_a_set(tmp_path: Path) -> None:
    file = tmp_path / "mbpp.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(json.dumps(record) for record in MBPP.values()).encode()))
    section = {"tasks_file": str(file), "tasks_format": "mbpp"}
    source = TaskSource(Recipe.model_validate({"environments": {"code": section}, "tasks": {"heldout_share": 0.5}}))
    drawn = {source.train(i).source_id for i in range(30)} | {task.source_id for task in source.heldout("code", 1)}
    assert drawn <= {f"mbpp/{record['task_id']}" for record in MBPP.values()}
    with pytest.raises(ConfigError, match="no format 'mbp': did you mean 'mbpp'"):
        TaskSource(Recipe.model_validate({"environments": {"code": {**section, "tasks_format": "mbp"}}}))


def test_the_command_feeds_the_bulk_verifier(tmp_path: Path) -> None:
    file = tmp_path / "apps.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in APPS.values()), "utf-8")
    run = [sys.executable, "-m"]
    sets = subprocess.run([*run, "flywheel.envs.code.problem_sets", "apps", str(file)], capture_output=True, check=True)
    assert sets.stderr == b""
    verdicts = subprocess.run([*run, "flywheel", "verify"], input=sets.stdout, capture_output=True, check=True).stdout
    assert [json.loads(line)["outcome"] for line in verdicts.splitlines()] == ["solved", "solved", "solved", "failed"]
