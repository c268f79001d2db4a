"""What an answer finds around it: helper files, a prelude, limits of single tests, handles; and what is told of a failure."""

# ruff: noqa: E501 - answers are lines of data
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.code import CodeVerifier
from flywheel.verifiers.code_payload import CodePayload

LIMITS = {"wall_s": 0.5, "memory_mb": 128}


def call(expected: object, *args: object, **more: object) -> dict[str, object]:
    return {"kind": "call", "args": list(args), "expected": expected, **more}


def check(source: str, **more: object) -> dict[str, object]:
    return {"kind": "assert", "source": source, **more}


def judged(answer: str, *, partial_credit: bool = False, **payload: Any) -> Verdict:
    task = Task.create(env="code", family="test", prompt="", payload={"entry_point": "f", "limits": LIMITS, **payload})
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    return CodeVerifier(partial_credit=partial_credit).verify(task, attempt)


# Tests of both kinds that f(argument) equals a value.
EQUALS: tuple[Callable[[object, object], dict[str, object]], ...] = (
    lambda argument, value: call(value, argument),
    lambda argument, value: check(f"assert f({argument!r}) == {value!r}"),
)

# ---------------------------------------------------------------- files and prelude

FILES = {"words.txt": "one\ntwo\n", "lib/helpers.py": "def double(x):\n    return 2 * x\n"}
READS = "from lib.helpers import double\ndef f(n):\n    return [double(n), open('words.txt').read().split()]\n"


@pytest.mark.parametrize("test", [call([6, ["one", "two"]], 3), check("assert f(3) == [6, ['one', 'two']]")])
def test_helper_files_lie_beside_the_answer(test: dict[str, object]) -> None:
    assert judged(READS, files=FILES, hidden_tests=[test]).outcome == "solved"
    assert judged(READS, hidden_tests=[test]).outcome == "failed"
    beside = READS.replace("'words.txt'", "__file__.replace('answer.py', 'words.txt')")
    assert judged(beside, files=FILES, hidden_tests=[test]).outcome == "solved"


def test_a_program_has_its_files_and_the_tests_have_theirs() -> None:
    program = {"kind": "io", "stdin": "1\n", "stdout": "two"}
    assert (
        judged("print(open('words.txt').read().split()[int(input())])", entry_point=None, files=FILES, hidden_tests=[program]).reward == 1
    )
    reads = check("from lib.helpers import double\nassert f(2) == double(2)")
    assert judged("def f(n):\n    return 2 * n\n", files=FILES, hidden_tests=[reads]).outcome == "solved"


def test_files_are_written_afresh_for_every_execution() -> None:
    spoils = "import os\nos.unlink('words.txt')\nopen('words.txt', 'w').write('three')\nos.unlink('lib/helpers.py')\nprint(input())"
    first = {"kind": "io", "stdin": "1", "stdout": "1"}
    assert judged(spoils, entry_point=None, files=FILES, hidden_tests=[first, first]).outcome == "solved"
    # The tests' own copy is out of the answer's reach.
    cheats = "import os\nos.unlink('lib/helpers.py')\nopen('lib/helpers.py', 'w').write('double = len')\ndef f(n):\n    return 0\n"
    assert judged(cheats, files=FILES, hidden_tests=[check("from lib.helpers import double\nassert f(2) == double(2)")]).outcome == "failed"


def test_the_prelude_runs_before_the_answer_in_its_module() -> None:
    prelude = "import math\ndef area(r):\n    return math.floor(math.pi * r * r)\n"
    answer = "from __future__ import annotations\ndef f(r):\n    return area(r) + math.floor(0.5)\n"
    for test in (call(12, 2), check("assert f(2) == 12")):
        assert judged(answer, prelude=prelude, hidden_tests=[test]).outcome == "solved"
    assert "line 3" in judged("def f(r):\n    x = area(r)\n    return x / 0\n", prelude=prelude, public_tests=[call(12, 2)]).evidence


@pytest.mark.parametrize("prelude", ["import nothing", "1 / 0", "import os\nos._exit(1)", "size = [0] * 10**9"])
def test_a_prelude_that_fails_by_itself_is_the_tasks_fault(prelude: str) -> None:
    for test in EQUALS:
        with pytest.raises(ValueError, match=r"^code payload: prelude can't be used: it fails by itself \("):
            judged("def f(x):\n    return x\n", prelude=prelude, hidden_tests=[test(1, 1)])


def test_an_answer_blames_no_prelude() -> None:
    for answer in ("1 / 0", "import os\nos._exit(0)", "def f(x):\n    raise KeyError"):
        assert judged(answer, prelude="size = 1", hidden_tests=[call(1, 1)]).outcome == "failed"
    program = {"kind": "io", "stdin": "3", "stdout": "3"}
    assert judged("print(n / 0)", entry_point=None, prelude="n = int(input())", hidden_tests=[program]).outcome == "failed"


# ---------------------------------------------------------------- limits of single tests


def test_a_test_with_limits_has_an_execution_of_its_own() -> None:
    slow = "def f(n):\n    while n:\n        pass\n    return 0\n"
    hidden = [call(0, 0), call(0, 1, limits={"wall_s": 0.1}), call(0, 0)]
    verdict = judged(slow, hidden_tests=hidden, partial_credit=True)
    assert [check.name for check in verdict.checks if not check.passed] == ["limit"]
    assert verdict.reward == pytest.approx(0.5 * 2 / 3)


def test_a_test_may_have_more_time_than_the_others() -> None:
    spins = (
        "import time\ndef f(s):\n    start = time.process_time()\n    while time.process_time() < start + s:\n        pass\n    return 1\n"
    )
    generous = {"limits": {"wall_s": 5.0}}
    assert judged(spins, limits={"wall_s": 0.2}, hidden_tests=[call(1, 0), call(1, 0.4, **generous)]).outcome == "solved"
    assert judged(spins, limits={"wall_s": 0.2}, hidden_tests=[call(1, 0.4)]).outcome == "failed"
    assert judged(spins, limits={"wall_s": 0.2}, hidden_tests=[check("assert f(0.4) == 1", **generous)]).outcome == "solved"


def test_an_absurdly_small_memory_still_starts_an_interpreter() -> None:
    assert judged("def f():\n    return 1\n", limits={"memory_mb": 1}, hidden_tests=[call(1)]).outcome == "solved"


# ---------------------------------------------------------------- tests that can't judge

UNFIT = {
    "vacuous": "def check(candidate):\n    assert candidate(1) == 2\n",
    "constant": "assert 1 + 1 == 2",
    "only looks": "assert callable(f)",
    "fails by itself": "assert False",
    "needs what is not there": "import numpy as np\nassert f(1) == np.int64(2)",
    "imports the answer": "from solution import f\nassert f(1) == 2",
    "a name that is not there": "assert check_it(f(1))",
    "passes a function": "assert f(lambda x: x) == 2",
    "exits": "raise SystemExit(0)",
}


def test_a_test_may_end_itself() -> None:
    for source in ("assert f(1) == 1\nraise SystemExit(0)", "import sys\nsys.exit(f(1) != 1)"):
        assert judged("def f(x):\n    return x\n", hidden_tests=[check(source)]).outcome == "solved"
        assert judged("def f(x):\n    return 2\n", hidden_tests=[check(source)]).outcome == "failed"
        assert judged("def f(x):\n    raise SystemExit(0)\n", hidden_tests=[check(source)]).outcome == "failed"


@pytest.mark.parametrize("name", [name for name in UNFIT if name != "a name that is not there"])
def test_a_test_that_no_answer_could_help_is_the_tasks_fault(name: str) -> None:
    with pytest.raises(ValueError, match=r"code payload: hidden_tests\[1\] can't be used: it "):
        judged("def f(x):\n    return x + 1\n", hidden_tests=[check("assert f(1) == 2"), check(UNFIT[name])])


@pytest.mark.parametrize(
    "answer", ["def f(x):\n    return {x}.__iter__\n", "def f(x):\n    return [[x]] * 10**6\n", "def f(x):\n    raise SystemExit\n"]
)
def test_an_answer_makes_no_test_unfit(answer: str) -> None:
    test = "a = f(1)\nassert f([a] * 3) == 3\nassert f(iter([a])) == 1"
    assert judged(answer, hidden_tests=[check(test)]).outcome == "failed"


def test_what_is_said_of_an_unfit_test_holds_none_of_its_values() -> None:
    with pytest.raises(ValueError, match="AssertionError") as caught:
        judged("def f(x):\n    return x\n", hidden_tests=[check("assert 98765 == 43210, 'expected 98765'\nf(1)")])
    assert "98765" not in str(caught.value)


def test_tests_may_call_from_threads() -> None:
    test = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n    assert list(pool.map(f, range(60))) == list(range(1, 61))"
    assert judged("def f(x):\n    return x + 1\n", hidden_tests=[check(test)]).outcome == "solved"


# ---------------------------------------------------------------- exceptions and handles


def test_exceptions_keep_their_nearest_type_and_their_arguments() -> None:
    answer = (
        "class Mine(KeyError):\n    pass\ndef f(kind):\n    if kind == 'own':\n        raise Mine('k', 1)\n"
        "    if kind == 'unicode':\n        b'\\xff'.decode()\n    if kind == 'object':\n        raise ValueError(object())\n    open('/none')\n"
    )
    test = (
        "def raised(kind):\n    try:\n        f(kind)\n    except Exception as error:\n        return error\n"
        "own = raised('own')\nassert type(own) is KeyError and own.args == ('k', 1)\n"
        "assert isinstance(raised('unicode'), UnicodeDecodeError)\nassert isinstance(raised('file'), FileNotFoundError)\n"
        "assert isinstance(raised('object'), ValueError)"
    )
    assert judged(answer, hidden_tests=[check(test)]).outcome == "solved"


STACK = """
class Stack:
    kind = 'lifo'
    def __enter__(self):
        return self
    def __exit__(self, *error):
        return True
    @classmethod
    def of(cls, *items):
        s = cls()
        s.items = list(items)
        return s
    def __init__(self):
        self.items = []
        self.name = 'stack'
    def push(self, x):
        self.items.append(x)
        return self
    def pop(self):
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __iter__(self):
        return iter(self.items)
    def __contains__(self, x):
        return x in self.items
    def __getitem__(self, at):
        return self.items[at]
    def __eq__(self, other):
        return self.items == other.items
    def __add__(self, other):
        s = Stack()
        s.items = self.items + other.items
        return s
def numbers():
    n = 0
    while True:
        yield n
        n += 1
"""
USES_OBJECTS = """
import itertools
s = Stack()
assert s.push(1).push([2]) is not None
assert len(s) == 2 and s and 1 in s and 5 not in s
assert list(s) == [1, [2]] and s[1] == [2]
assert s.pop() == [2] and s.name == 'stack' and not hasattr(s, 'missing')
s.name = 'other'
assert s.name == 'other'
try:
    Stack().pop()
except IndexError:
    pass
else:
    assert False
assert s == Stack().push(1) and s != Stack() and len(s + s) == 2
assert list(itertools.islice(numbers(), 3)) == [0, 1, 2]
assert {s: 1}[s] == 1
assert Stack.kind == 'lifo' and len(Stack.of(1, 2)) == 2 and isinstance(s, Stack) and not isinstance(5, Stack)
assert issubclass(Stack, Stack)
with s as same:
    assert same == s and len(same) == 1
"""


def test_handles_let_tests_hold_the_answers_objects() -> None:
    assert judged(STACK, entry_point=None, handles=True, hidden_tests=[check(USES_OBJECTS)]).outcome == "solved"
    wrong = STACK.replace("return self.items.pop()", "return self.items[0]")
    assert judged(wrong, entry_point=None, handles=True, hidden_tests=[check(USES_OBJECTS)]).outcome == "failed"


@pytest.mark.parametrize(
    "answer", ["add = 3", "def ad(a, b):\n    return 3", "class C(int):\n    __call__ = lambda s, a, b: 4\nadd = C(3)"]
)
def test_no_name_of_the_answers_makes_a_test_unfit(answer: str) -> None:
    assert judged(answer, entry_point=None, handles=True, hidden_tests=[check("assert add(1, 2) == 3")]).outcome == "failed"


@pytest.mark.parametrize("test", ["len(Stack.of(1)) == 1", "take(Stack) == 1", "Stack.kind == 'lifo'", "isinstance(1, Stack)"])
def test_an_answer_without_the_class_is_what_is_wrong(test: str) -> None:
    for answer in ("def take(x):\n    return 2", "Stack = 5\ndef take(x):\n    return 2"):
        assert judged(answer, entry_point=None, handles=True, hidden_tests=[check(f"assert {test}")]).outcome == "failed"


def test_a_test_can_not_derive_from_the_answers_class() -> None:
    with pytest.raises(ValueError, match="it derives a class from the answer's"):
        judged(STACK, entry_point="Stack", handles=True, hidden_tests=[check("class Mine(Stack):\n    pass\nassert len(Mine()) == 0")])


def test_no_context_of_the_answers_swallows_what_a_test_raises() -> None:
    for body in ("assert len(same) == 1", "raise KeyError", "exit()"):
        test = check(f"with Stack() as same:\n    {body}\n")
        assert judged(STACK, entry_point="Stack", handles=True, hidden_tests=[test]).outcome == "failed"


def test_handles_are_off_unless_the_task_says_so() -> None:
    verdict = judged(STACK, entry_point=None, hidden_tests=[check(USES_OBJECTS)])
    assert (verdict.outcome, verdict.evidence) == ("failed", "hidden test: returned something that is not plain data (see handles)")


def test_tests_of_a_class_hold_its_instances_where_the_task_says_so() -> None:
    tests = [check("s = Stack()\ns.push(3)\nassert len(s) == 1 and s.pop() == 3")]
    assert judged(STACK, entry_point="Stack", handles=True, hidden_tests=tests).outcome == "solved"
    wrong = STACK.replace("return self.items.pop()", "pass")
    assert judged(wrong, entry_point="Stack", handles=True, hidden_tests=tests).outcome == "failed"
    assert judged(STACK, entry_point="Stack", hidden_tests=tests).outcome == "failed"


IN_PLACE = "rows = [[2, 1], [3]]\nfirst, seen = rows[0], {'k': {1}}\nassert f(rows, seen=seen) is None\n"
IN_PLACE += "assert rows == [[1, 2], [3], []] and first == [1, 2] and seen == {'k': {1, 2}, 'n': 3}"


def test_what_a_function_that_returns_nothing_does_to_its_arguments_is_seen() -> None:
    answer = "def f(rows, seen):\n    rows[0].sort()\n    rows.append([])\n    seen['k'].add(2)\n    seen['n'] = len(rows)\n"
    assert judged(answer, hidden_tests=[check(IN_PLACE)]).outcome == "solved"
    assert judged(answer.replace("rows.append([])", "rows = [*rows, []]"), hidden_tests=[check(IN_PLACE)]).outcome == "failed"


# What a function gives is compared with what the test gave it, not with what the answer made of that.
CHANGES_THE_QUESTION = {
    "clears it": ("def f(x):\n    x.clear()\n    return []", "x = [2, 1]\nassert f(x) == sorted(x)"),
    "counts its own": ("def f(x):\n    x[:] = [0]\n    return 0", "x = [2, 1]\nassert f(x) == sum(x)"),
    "puts in what can't be sent": ("def f(x):\n    x[:] = [object()]", "x = [2, 1]\nf(x)\nassert x == [1, 2]"),
}


@pytest.mark.parametrize("name", CHANGES_THE_QUESTION)
def test_no_function_that_returns_something_changes_its_arguments(name: str) -> None:
    answer, test = CHANGES_THE_QUESTION[name]
    assert judged(answer, hidden_tests=[check(test)]).outcome == "failed"


ITERATES = "assert list(f(3)) == [0, 1, 2]\nassert next(f(1)) == 0 and sum(f(4)) == 6 and f(2) != [0, 1]\nassert list(zip(f(9), 'ab')) == [(0, 'a'), (1, 'b')]"


@pytest.mark.parametrize("iterator", ["(i for i in range(n))", "map(int, range(n))", "iter(list(range(n)))"])
def test_iterators_are_iterated_over(iterator: str) -> None:
    assert judged(f"def f(n):\n    return {iterator}\n", hidden_tests=[check(ITERATES)]).outcome == "solved"
    assert judged(f"def f(n):\n    n += 1\n    return {iterator}\n", hidden_tests=[check(ITERATES)]).outcome == "failed"


@pytest.mark.parametrize("view", ["range(n)", "dict.fromkeys(range(n)).keys()", "{i: i for i in range(n)}.values()"])
def test_ranges_and_views_are_iterated_over(view: str) -> None:
    test = check("assert list(f(3)) == [0, 1, 2] and sorted(f(2)) == [0, 1] and f(2) != [0, 1]")
    assert judged(f"def f(n):\n    return {view}\n", hidden_tests=[test]).outcome == "solved"
    assert judged(f"def f(n):\n    n += 1\n    return {view}\n", hidden_tests=[test]).outcome == "failed"


def test_an_iterator_may_be_endless_and_never_ends_before_its_time() -> None:
    answer = "def f(n):\n    while True:\n        yield n\n        n += 1\n"
    assert judged(answer, hidden_tests=[check("g = f(5)\nassert [next(g) for _ in range(3)] == [5, 6, 7]")]).outcome == "solved"
    assert judged(answer, hidden_tests=[check("assert len(list(f(5))) == 1000")]).outcome == "failed"
    assert judged(answer.replace("yield n", "yield object()"), hidden_tests=[check("assert f(5)")]).outcome == "failed"


HANDLE_HACKS = {
    "equals everything": "class E:\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n    __hash__ = lambda s: 0\ndef f(x):\n    return E()",
    "is equal from the right": "class E(list):\n    __eq__ = lambda s, o: True\n    __radd__ = lambda s, o: s\ndef f(x):\n    return E()",
    "lies about its length": "class E:\n    __len__ = lambda s: 1\n    __iter__ = lambda s: iter([2])\n    __eq__ = lambda s, o: True\ndef f(x):\n    return E()",
    "ends loops": "class E:\n    def __getattr__(s, n):\n        raise StopIteration\ndef f(x):\n    return E()",
    "differs by nothing": "class E:\n    __sub__ = __rsub__ = lambda s, o: 0.0\n    __abs__ = lambda s: 0.0\ndef f(x):\n    return E()",
    "is less than anything": "class E:\n    __lt__ = __gt__ = __le__ = __ge__ = lambda s, o: True\ndef f(x):\n    return E()",
    "another handle": "def f(x):\n    return [object()]",
}


@pytest.mark.parametrize("name", HANDLE_HACKS)
def test_no_handle_equals_plain_data(name: str) -> None:
    tests = [check("assert f(1) == 2"), check("assert [f(1)] == [2]"), check("assert 2 == f(1)"), check("assert f(1) in (2, 3)")]
    tests += [check("assert abs(f(1) - 2) < 0.1"), check("assert 1 < f(1) < 3"), check("assert f(1) * 1 == 2")]
    assert judged(HANDLE_HACKS[name], handles=True, hidden_tests=tests, partial_credit=True).reward == 0.0


# ---------------------------------------------------------------- what is told


def test_evidence_shows_what_public_tests_printed() -> None:
    verdict = judged("def f(x):\n    print('x is', x)\n    return x\n", public_tests=[call(2, 1)])
    assert verdict.evidence == "f(1): got 1, expected 2\nprinted:\nx is 1"


def test_evidence_shows_the_public_test_that_failed_and_the_answers_traceback() -> None:
    wrong = judged("def f(x):\n    return x\n", public_tests=[check("x = 1\nassert f(x) == 2, 'not two'")])
    assert wrong.evidence == "AssertionError\nassert f(x) == 2, 'not two'\nnot two"
    raised = judged("def f(x):\n    y = {}\n    return y[x]\n", public_tests=[check("assert f(1) == 2")])
    assert raised.evidence.startswith("KeyError\nassert f(1) == 2\nTraceback")
    assert "line 3, in f" in raised.evidence


@pytest.mark.parametrize("leak", ["print(found)", "raise ValueError(found)", "return found", "raise type('E' + found, (Exception,), {})"])
def test_nothing_of_a_hidden_test_gets_into_the_evidence(leak: str) -> None:
    answer = (
        "import gc, sys\ndef f(x):\n    frame, found = sys._getframe(), ''\n    while frame:\n        found += repr(frame.f_locals)\n        frame = frame.f_back\n"
        f"    found += repr([o for o in gc.get_objects() if type(o) in (list, dict) and str(31336 + 1) in repr(o)[:9999]])\n    {leak}\n"
    )
    for test in EQUALS:
        verdict = judged(answer, public_tests=[test(1, 2)], hidden_tests=[test("31337", "secret"), test(31337, 98765)])
        assert verdict.outcome == "failed"
        assert not any(secret in repr(verdict) for secret in ("31337", "secret", "98765"))


def test_an_entry_point_that_changes_its_mind_is_still_the_one_that_is_judged() -> None:
    answer = "def f(xs):\n    global f\n    f = len\n    return sorted(xs)\n"
    for test in EQUALS:
        assert judged(answer, hidden_tests=[test([2, 1], [1, 2]), test([3, 1], [1, 3])]).outcome == "solved"


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "language": ({"language": "cobol"}, "language is 'cobol', expected one of python, javascript"),
    "language a list": ({"language": ["python"]}, "language is a list"),
    "prelude": ({"prelude": "def"}, "prelude is not Python"),
    "prelude a number": ({"prelude": 3}, "prelude is 3"),
    "handles": ({"handles": "yes"}, "handles is 'yes', expected true or false"),
    "files a list": ({"files": ["a"]}, "files is a list"),
    "files above": ({"files": {"../a": ""}}, "files has the path '../a'"),
    "files from the root": ({"files": {"/tmp/a": ""}}, "files has the path '/tmp/a'"),
    "files hidden": ({"files": {".bashrc": ""}}, "files has the path '.bashrc'"),
    "files not text": ({"files": {"a": 5}}, "files['a'] is 5, expected text"),
    "files in a file": ({"files": {"a": "", "a/b": ""}}, "both as a file and as a folder"),
    "files too large": ({"files": {"a": "x" * (2**20 + 1)}}, "more than 1048576 characters"),
    "limits of a test": ({"hidden_tests": [call(1, limits={"wall_s": -1})]}, "hidden_tests[0].limits.wall_s is -1"),
    "assert in JavaScript": ({"language": "javascript", "hidden_tests": [check("f()")]}, "javascript has call, io tests only"),
    "kwargs in JavaScript": ({"language": "javascript", "hidden_tests": [call(1, kwargs={"a": 1})]}, "has no keyword arguments"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_setting_is_named(name: str) -> None:
    fields, why = MALFORMED[name]
    with pytest.raises(ValueError, match=r"^code payload: ") as caught:
        CodePayload.read({"entry_point": "f", "hidden_tests": [call(1)], **fields})
    assert why in str(caught.value)
