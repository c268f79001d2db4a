"""The code verifier's three tables: references pass, wrong answers fail, hacks never score."""

from __future__ import annotations

import pytest

from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.code import CodeVerifier

LIMITS = {"wall_s": 0.5, "memory_mb": 256}


def call(expected: object, *args: object, **kwargs: object) -> dict[str, object]:
    return {"kind": "call", "args": list(args), "kwargs": kwargs, "expected": expected}


def io(stdin: str, stdout: str) -> dict[str, object]:
    return {"kind": "io", "stdin": stdin, "stdout": stdout}


def check(source: str) -> dict[str, object]:
    return {"kind": "assert", "source": source}


def code_task(entry_point: str | None, public: list[dict[str, object]], hidden: list[dict[str, object]]) -> Task:
    payload = {"entry_point": entry_point, "public_tests": public, "hidden_tests": hidden, "limits": LIMITS}
    return Task.create(env="code", family="test", prompt="", payload=payload)


SORT = code_task("f", [call([1, 2], [2, 1])], [call([], []), call([1, 2, 3], [3, 1, 2]), call([-1, -1, 4], [4, -1, -1])])
SORT_ASSERTS = code_task(
    "f",
    [check("assert f([2, 1]) == [1, 2]")],
    [check("def check(candidate):\n    assert candidate([3, 1, 2]) == [1, 2, 3]\n    assert candidate([]) == []\ncheck(f)")],
)
DOUBLE_IO = code_task(None, [io("3\n", "6\n")], [io("-2\n", "-4"), io("10\n", "20")])
SORT_ALL = (SORT, SORT_ASSERTS)


def verdict_on(task: Task, source: str | None, *, partial_credit: bool = False) -> Verdict:
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source)
    return CodeVerifier(partial_credit=partial_credit).verify(task, attempt)


REFERENCES = {
    "sort": (SORT, "def f(xs):\n    return sorted(xs)\n"),
    "tuple_for_list": (SORT, "def f(xs):\n    return tuple(sorted(xs))\n"),
    "lambda": (SORT, "f = sorted"),
    "prints_too": (SORT, "def f(xs):\n    print('debug')\n    return sorted(xs)\n"),
    "mutates_its_argument": (SORT, "def f(xs):\n    xs.sort()\n    return xs\n"),
    "helper_class": (SORT, "class S:\n    def run(self, xs):\n        return sorted(xs)\ndef f(xs):\n    return S().run(xs)\n"),
    "dataclass": (SORT, "from dataclasses import dataclass\n@dataclass\nclass P:\n    v: list\ndef f(xs):\n    return sorted(P(xs).v)\n"),
    "thread": (
        SORT,
        "import threading\ndef f(xs):\n    out = []\n    t = threading.Thread(target=lambda: out.extend(sorted(xs)))\n"
        "    t.start()\n    t.join()\n    return out\n",
    ),
    "asserts": (SORT_ASSERTS, "def f(xs):\n    return sorted(xs)\n"),
    "raises_as_asked": (
        code_task("f", [], [check("try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False")]),
        "def f(n):\n    if n < 0:\n        raise ValueError(n)\n    return n\n",
    ),
    "rich_types": (
        code_task("f", [], [check("assert f({1: (2, 3)}) == ({2, 3}, {1: b'x'}, 1j, 2**100)")]),
        "def f(d):\n    return set(d[1]), {1: b'x'}, 1j, 2**100\n",
    ),
    "other_names": (
        code_task(None, [], [check("import math\nassert add(1, 2) == 3 and mul(2, 3) == 6 and math.floor(1.5) == 1")]),
        "def add(a, b):\n    return a + b\ndef mul(a, b):\n    return a * b\n",
    ),
    "program": (DOUBLE_IO, "print(int(input()) * 2)"),
    "program_with_main": (DOUBLE_IO, "def main():\n    print(2 * int(input()), '  ')\nif __name__ == '__main__':\n    main()\n"),
    "program_exit_0": (DOUBLE_IO, "import sys\nprint(int(input()) * 2)\nsys.exit(0)"),
    "program_that_prints_much": (
        code_task(None, [], [io("", "0123456789\n" * 30_000)]),
        "for _ in range(30_000):\n    print('0123456789')",
    ),
    "program_calls_exit": (DOUBLE_IO, "print(int(input()) * 2)\nexit()"),
    "program_opens_dev_stdin": (DOUBLE_IO, "print(int(open('/dev/stdin').read()) * 2, end=input() and '')"),
    "program_names_no_small_stdin": (code_task(None, [], [io("x" * 17 * 2**20, "17825792")]), "print(len(input()))  # not /dev/stdin"),
    "program_opens_its_streams_by_name": (
        DOUBLE_IO,
        "import io, pathlib\nprint('a', file=open('/dev/stderr', 'w'))\nn = int(io.open('/dev/fd/0', 'rb').read())\n"
        "pathlib.Path('/dev/stdout').write_text(str(n * 2)[0])\nout = open('/proc/self/fd/1', 'a')\nout.write(str(n * 2)[1:])",
    ),
    "function_prints_by_name": (SORT, "def f(xs):\n    print(xs, file=open('/dev/stdout', 'w'))\n    return sorted(xs)\n"),
    "program_of_other_spaces": (code_task(None, [], [{**io("", "1 2\n3"), "compare": "numbers"}]), "print(' 1  2 ')\nprint()\nprint(3)"),
    "program_of_other_digits": (code_task(None, [], [{**io("3", "0.33333"), "compare": "numbers"}]), "print(1 / int(input()))"),
    "program_opens_no_stdin": (code_task(None, [], [io("", "0")]), "print(len(open('/dev/stdin').read()))"),
    "program_wraps_its_streams": (
        DOUBLE_IO,
        "import io, sys\nfor name in ('stdin', 'stdout', 'stderr'):\n"
        "    setattr(sys, name, io.TextIOWrapper(getattr(sys, name).buffer, encoding='utf-8'))\nprint(int(input()) * 2)",
    ),
    "program_sets_its_streams": (DOUBLE_IO, "import sys\nsys.stdout.reconfigure(encoding='utf-8')\nprint(int(input()) * 2)"),
    "program_closes_nothing": (
        code_task(None, [], [io("", "a\nb\n")]),
        "import io, sys\nclass Last:\n    def __del__(self):\n        print('b')\nlast = Last()\nsys.stdout = io.StringIO()\nprint('a')\n"
        "sys.__stdout__.write(sys.stdout.getvalue())",
    ),
    "program_leaves_a_file_open": (DOUBLE_IO, "out = open(1, 'w')\nout.write(str(int(input()) * 2))"),
    "program_atexit": (DOUBLE_IO, "import atexit\nn = int(input())\natexit.register(lambda: print(n * 2))"),
    "fenced": (SORT, "Sorting isn't hard:\r\n```python\r\ndef f(xs):\r\n    return sorted(xs)\r\n```\r\n"),
    "fenced_with_an_example": (
        SORT_ASSERTS,
        "```py\ndef f(xs):\n    return xs\n```\nBetter:\n```py\ndef f(xs):\n    return sorted(xs)\n```\n"
        "```bash\nls\n```\n```py\nprint(f([1]))\n```",
    ),
    "fences_in_a_program": (SORT, 'def f(xs):\n    """\n```\nxs\n```\n"""\n    return sorted(xs)\n'),
    "fenced_program": (DOUBLE_IO, "```python\nprint(4)\n```\nor\n```python\nprint(int(input()) * 2)\n```\n```\n6\n```"),
    "fence_left_open": (DOUBLE_IO, "```\nprint(int(input()) * 2)\n"),
    "byte_order_mark": (SORT, "\ufeffdef f(xs):\n    return sorted(xs)\n"),
    "large_values": (code_task("f", [], [call("x" * 3_000_000, 3_000_000)] * 2), "def f(n):\n    return n * 'x'\n"),
    "kwargs": (code_task("f", [], [call(3, 1, b=2)]), "def f(a, b):\n    return a + b\n"),
    "nan": (code_task("f", [], [call(float("nan"), 1)]), "def f(a):\n    return float('nan')\n"),
    "big_integer": (code_task("f", [], [call(10**4000, 4000)]), "def f(a):\n    return 10**a\n"),
    "strings": (code_task("f", [], [call({"é": "⊢\u0000"}, "⊢")]), "def f(s):\n    return {'é': s + chr(0)}\n"),
}

WRONG = {
    "identity": (SORT, "def f(xs):\n    return xs\n"),
    "public_only": (SORT, "def f(xs):\n    return [1, 2]\n"),
    "raises": (SORT, "def f(xs):\n    return xs / 0\n"),
    "syntax": (SORT, "def f(xs) return xs"),
    "prose": (SORT, "Sort `xs`, that's all.\n```bash\nsort xs\n```"),
    "fenced_syntax": (SORT, "```python\ndef f(xs) return xs\n```"),
    "no_function": (SORT, "g = 1"),
    "not_callable": (SORT, "f = 1"),
    "none": (SORT, "def f(xs):\n    sorted(xs)\n"),
    "strings": (SORT, "def f(xs):\n    return str(sorted(xs))\n"),
    "floats": (SORT, "def f(xs):\n    return [float(x) for x in sorted(xs)]\n"),
    "bools": (code_task("f", [], [call(1, 1), call(0, 0)]), "def f(a):\n    return bool(a)\n"),
    "int_for_bool": (code_task("f", [], [call(True, 1)]), "def f(a):\n    return 1\n"),
    "int_keys": (code_task("f", [], [call({"1": 2}, 1)]), "def f(a):\n    return {1: 2}\n"),
    "set_for_list": (SORT, "def f(xs):\n    return set(xs)\n"),
    "generator": (SORT, "def f(xs):\n    return (x for x in sorted(xs))\n"),
    "not_nan": (code_task("f", [], [call(float("nan"), 1)]), "def f(a):\n    return 0.0\n"),
    "remembers": (SORT, "seen = []\ndef f(xs):\n    seen.extend(xs)\n    return sorted(seen)\n"),
    "empty_class": (SORT, "class f:\n    def __init__(self, xs):\n        pass\n"),
    "recursion": (SORT, "def f(xs):\n    return f(xs)\n"),
    "loop": (SORT, "def f(xs):\n    while True:\n        pass\n"),
    "memory": (SORT, "def f(xs):\n    return [0] * 10**9\n"),
    "asserts": (SORT_ASSERTS, "def f(xs):\n    return xs\n"),
    "asserts_loop": (SORT_ASSERTS, "def f(xs):\n    while True:\n        pass\n"),
    "asserts_syntax": (SORT_ASSERTS, "def f(xs) return xs"),
    "asserts_missing": (SORT_ASSERTS, "def g(xs):\n    return xs\n"),
    "program": (DOUBLE_IO, "print(input())"),
    "program_fails_after": (DOUBLE_IO, "print(int(input()) * 2)\n1/0"),
    "program_calls_exit": (DOUBLE_IO, "print(int(input()) * 2)\nexit(1)"),
    "program_prints_no_text": (code_task(None, [], [io("", r"\xff")]), "import sys\nsys.stdout.buffer.write(b'\\xff')"),
    "program_exit_1": (DOUBLE_IO, "import sys\nprint(int(input()) * 2)\nsys.exit(1)"),
    "program_silent": (DOUBLE_IO, "pass"),
    "program_of_other_digits": (code_task(None, [], [io("3", "0.33333")]), "print(1 / int(input()))"),
    "program_near_a_whole_number": (code_task(None, [], [{**io("", "100000"), "compare": "numbers"}]), "print(100000.1)"),
    "lone_surrogate": (SORT, "\ud800"),
    "null_byte": (SORT, "def f(xs):\n    return sorted(xs)\n\0"),
    "deep_source": (SORT, "x = " + "(" * 5000 + ")" * 5000),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_solutions_are_solved(name: str) -> None:
    verdict = verdict_on(*REFERENCES[name])
    assert (verdict.outcome, verdict.reward) == ("solved", 1.0), verdict
    assert all(check.passed for check in verdict.checks)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_fail(name: str) -> None:
    verdict = verdict_on(*WRONG[name])
    assert (verdict.outcome, verdict.reward) == ("failed", 0.0), verdict
    assert not all(check.passed for check in verdict.checks)


@pytest.mark.parametrize("answer", [None, "", " \n"])
def test_no_answer_fails_with_its_own_check(answer: str | None) -> None:
    verdict = verdict_on(SORT, answer)
    assert verdict.outcome == "failed"
    assert [(check.name, check.passed) for check in verdict.checks] == [("no_answer", False)]


def test_cpu_and_memory_limits_are_named() -> None:
    verdict = verdict_on(*WRONG["loop"])
    assert "CPU time limit" in verdict.evidence
    assert any(check.name == "limit" and "CPU" in check.detail for check in verdict.checks)
    assert "memory" in str(verdict_on(*WRONG["memory"]).checks).lower()


def test_partial_credit_is_half_the_share_of_hidden_tests() -> None:
    source = "def f(xs):\n    return sorted(set(xs))\n"  # 1 of 1 public, 2 of 3 hidden
    assert verdict_on(SORT, source).reward == 0.0
    verdict = verdict_on(SORT, source, partial_credit=True)
    assert verdict.outcome == "failed"
    assert verdict.reward == pytest.approx(0.5 * 2 / 3)


def test_evidence_shows_public_values_and_no_hidden_ones() -> None:
    task = code_task("f", [call(111, 1)], [call(98765, 2), call(43210, 3)])
    public = verdict_on(task, "def f(x):\n    return 5\n")
    assert "f(1): got 5, expected 111" in public.evidence
    hidden = verdict_on(task, "def f(x):\n    return 111\n")
    assert hidden.outcome == "failed"
    text = repr(hidden)
    assert "98765" not in text
    assert "43210" not in text


def test_evidence_of_hidden_assert_tests_holds_none_of_their_text() -> None:
    task = code_task("f", [], [check("assert f(1) == 98765, 'expected 98765'")])
    assert "98765" not in repr(verdict_on(task, "def f(x):\n    return 5\n"))


def test_traceback_names_the_answers_line_only() -> None:
    evidence = verdict_on(SORT, "def f(xs):\n    return g(xs)\n\ndef g(xs):\n    return xs[99]\n").evidence
    assert "IndexError" in evidence
    assert "line 5, in g" in evidence
    assert "runners" not in evidence
