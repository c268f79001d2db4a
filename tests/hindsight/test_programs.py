"""Programs that failed, relabelled as what they do: read back as steps, or told by examples; and hostile ones, which give nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.envs.code.families import FAMILIES, STEPS
from flywheel.envs.code.mutants import mutants
from flywheel.envs.code.observed import domain_of
from flywheel.envs.code.reading import read
from flywheel.envs.code.relabel import ProgramRelabeller, without_steps
from flywheel.errors import NotRelabelledError
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, ToolCall, Trajectory, Turn, Verdict
from flywheel.verifiers.code import CodeVerifier
from tests.hindsight.attempts import collected, harvested, recipe_of, said
from tests.scripted import call

MAKER = ProgramRelabeller()
LISTS = {"num_ops": 3, "num_kinds": 14, "max_constant": 9, "example_size": 3}
TASK = FAMILIES["lists"].generate(LISTS, 7)
FAILED = Verdict(outcome="failed", reward=0.0, checks=(), evidence="", verifier="code", verifier_version="2")
STEPPED = """def f(xs):
    # sort
    xs = sorted(xs)
    # multiply by 3
    xs = [x * 3 for x in xs]
    # keep above 4
    xs = [x for x in xs if x > 4]
    return xs
"""
FREE = """def f(xs):
    total = 0
    out = []
    for x in xs:
        total = total + x
        if total > 3:
            out.append(total * 2 - 1)
    return out
"""


def relabelled(source: str, task: Task = TASK) -> tuple[Task, Trajectory]:
    action = ToolCall(name="submit", arguments={"code": source})
    turn = Turn(prompt_ids=(), completion_ids=(), behavior_logprobs=None, policy_version="", text="", tool_calls=(action,))
    attempt = Trajectory(task_id=task.id, turns=(turn,), stop_reason="terminated", answer=source)
    ((child, path),) = MAKER.relabel(task, attempt, FAILED)
    return child, path


def outcome(task: Task, source: str | None) -> str:
    answer = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source)
    return CodeVerifier().verify(task, answer).outcome


# ------------------------------------------------------------ read back


def test_steps_are_asked_for_in_the_familys_own_words() -> None:
    child, path = relabelled(STEPPED)
    assert child.prompt.splitlines()[:4] == ["Write f(xs).", "1. sort", "2. multiply by 3", "3. keep above 4"]
    assert (child.family, child.parent_id, child.operator) == ("lists", TASK.id, "hindsight:program")
    assert child.params == {**LISTS, "num_kinds": 14}
    assert child.payload["steps"] == [["sort", None], ["multiply", 3], ["keep_above", 4]]
    assert path.answer == STEPPED
    assert outcome(child, STEPPED) == "solved"
    assert outcome(child, str(TASK.payload["reference"])) == "failed"


def test_tests_are_inputs_that_the_prompt_does_not_show() -> None:
    child, _ = relabelled(STEPPED)
    shown = [test["args"] for test in child.payload["public_tests"]]
    assert len(child.payload["hidden_tests"]) >= 8
    assert not [test for test in child.payload["hidden_tests"] if test["args"] in shown]


def test_comments_that_belie_their_lines_are_written_anew() -> None:
    _, path = relabelled(STEPPED.replace("# multiply by 3", "# multiply by 5"))
    assert path.answer == STEPPED


@pytest.mark.parametrize("family", STEPS)
def test_references_read_back_as_themselves(family: str) -> None:
    generator = STEPS[family]
    for seed in range(6):
        params = {name: knob.default[1] for name, knob in generator.knobs.items()}
        task = generator.generate(params, seed)
        reading = read(generator, str(task.payload["reference"]))
        assert reading is not None
        assert not reading.belied
        assert [[p.step.name, p.constant] for p in reading.placed] == task.payload["steps"]


@pytest.mark.parametrize(
    "line",
    [
        "xs = [x + 1 for x in xs if print(x) is None]",
        "xs = [x + __import__('os').getpid() for x in xs]",
        "xs = xs + [0xFFFFFFFFFFFFFFFFFFFFFF]",
        "xs = [x * 99999 for x in xs]",
        "ys = sorted(xs)",
        "xs = xs[-1:]",
    ],
)
def test_lines_that_are_no_step_are_not_read(line: str) -> None:
    assert read(STEPS["lists"], f"def f(xs):\n    {line}\n    return xs\n") is None


def test_constants_that_no_task_has_are_not_read() -> None:
    """The family runs what it reads in this process: a string twenty times as long, six times over, must not get there."""
    assert read(STEPS["strings"], "def f(s):\n" + "    s = s * 4\n" * 6 + "    return s\n") is not None
    assert read(STEPS["strings"], "def f(s):\n" + "    s = s * 20\n" * 6 + "    return s\n") is None
    assert read(STEPS["lists"], "def f(xs):\n    xs = xs[0:]\n    return xs\n") is None
    assert read(STEPS["lists"], "def f(xs):\n    xs = [x + 20 for x in xs]\n    return xs\n") is not None


def test_what_runs_beside_the_function_is_not_read() -> None:
    for source in (f"import os\n{STEPPED}", f"{STEPPED}\nprint(1)", STEPPED.replace("xs):", "xs, k=print(1)):"), f"@print\n{STEPPED}"):
        assert read(STEPS["lists"], source) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(xs):\n    # sort\n    xs = sorted(xs)\n    return xs\n", "too_small"),
        (STEPPED.replace("xs = sorted(xs)", "xs = sorted(xs)\n    xs = sorted(xs)"), "unsound"),
        ("def f(xs):\n    return (", "unparsable"),
        ("x = 1", "no_function"),
        ("def f(xs):\n    return xs\n" + "#" * 5000, "too_long"),
    ],
)
def test_programs_that_make_no_task_are_dropped(source: str, reason: str) -> None:
    with pytest.raises(NotRelabelledError, match=reason):
        relabelled(source)


def test_whole_programs_are_asked_for_in_the_familys_own_words() -> None:
    generator = FAMILIES["programs"]
    params = {"num_ops": 3, "num_kinds": 14, "max_constant": 9, "num_readers": 2, "num_writers": 3}
    task = generator.generate(params, 1)
    program = "xs = list(map(int, input().split()))\nxs = sorted(xs)\nxs = [x * 3 for x in xs]\nxs = [x for x in xs if x > 4]\nprint(*xs)\n"
    child, _ = relabelled(program, task)
    assert child.prompt.splitlines()[:5] == [
        "Write a program. Read a line of integers.",
        "1. sort",
        "2. multiply by 3",
        "3. keep above 4",
        "Print them on one line.",
    ]
    assert (outcome(child, program), outcome(child, str(task.payload["reference"]))) == ("solved", "failed")
    assert all(outcome(child, trivial) == "failed" for trivial in MAKER.trivial(child))
    assert generator.key(child) != generator.key(task)
    with pytest.raises(NotRelabelledError, match="unread"):
        relabelled(program + "import os\n", task)


# ------------------------------------------------------------ told by examples


def test_a_free_program_is_told_by_what_it_gives() -> None:
    child, path = relabelled(FREE)
    header, *equations = child.prompt.splitlines()
    namespace: dict[str, object] = {}
    exec(FREE, namespace)
    assert header == "Write f(xs)."
    assert len(equations) >= 5
    assert all(eval(equation, namespace) is True for equation in equations)
    assert "reference" not in child.payload
    assert path.answer == FREE
    assert outcome(child, FREE) == "solved"
    killed = [mutant for mutant in mutants(FREE) if outcome(child, mutant) == "failed"]
    assert len(killed) >= 5
    for trivial in MAKER.trivial(child):
        assert outcome(child, trivial) == "failed"
    values = {repr(test["expected"]) for test in child.payload["hidden_tests"]}
    assert all(outcome(child, f"def f(xs):\n    return {value}\n") == "failed" for value in list(values)[:3])


def test_its_key_is_the_one_that_its_family_gives_the_same_function() -> None:
    again = FREE.replace("total", "t").replace("out", "o")
    assert FAMILIES["lists"].key(relabelled(FREE)[0]) == FAMILIES["lists"].key(relabelled(again)[0])
    for family in ("lists", "strings", "arithmetic", "examples", "repair", "algorithms"):
        generator = FAMILIES[family]
        task = generator.generate({name: knob.default[0] for name, knob in generator.knobs.items()}, 3)
        domain = domain_of(task)
        namespace: dict[str, object] = {}
        exec(str(task.payload["reference"]), namespace)
        values = [namespace["f"](*args) for args in domain.inputs]  # type: ignore[operator]
        assert generator.key(task) == f"{family}:{domain.key(values)}"


def test_the_examples_that_it_passed_are_shown() -> None:
    test = TASK.payload["public_tests"][0]
    namespace: dict[str, object] = {}
    exec(FREE, namespace)
    right = {**test, "expected": namespace["f"](*test["args"])}  # type: ignore[operator]
    passed = dataclasses.replace(TASK, payload={**TASK.payload, "public_tests": [right]})
    equation = f"f({test['args'][0]!r}) == {right['expected']!r}"
    assert relabelled(FREE, passed)[0].prompt.splitlines()[1] == equation
    assert equation not in relabelled(FREE)[0].prompt


def test_comments_of_the_old_prompt_go() -> None:
    source = "def f(xs):\n    # sort\n    # mine\n    return '''\n# sort\n'''\n"
    assert without_steps(source, "Write f.\n1. sort") == source
    assert without_steps(source.replace("'''\n# sort\n'''", "xs"), "Write f.\n1. sort") == "def f(xs):\n    # mine\n    return xs\n"


HOSTILE = {
    "exits": "import sys\ndef f(xs):\n    sys.exit(0)\n",
    "kills itself": "import os\ndef f(xs):\n    os.kill(os.getpid(), 9)\n",
    "differs between runs": "import os\ndef f(xs):\n    return [len(xs), int.from_bytes(os.urandom(4), 'big')]\n",
    "tells the time": "import time\ndef f(xs):\n    return [len(xs), time.time_ns()]\n",
    "reads its own process": "def f(xs):\n    return [len(xs), open('/proc/self/stat').read()]\n",
    "never ends": "def f(xs):\n    while True:\n        pass\n",
    "fills memory": "def f(xs):\n    return [0] * 10**10\n",
    "is huge": "def f(xs):\n    return list(range(10**5))\n",
    "is no plain data": "def f(xs):\n    return (x for x in xs)\n",
    "writes frames": "import os\ndef f(xs):\n    for fd in range(3, 64):\n        try:\n            os.write(fd, b'x' * 64)\n"
    "        except OSError:\n            pass\n    return xs\n",
    "remembers": "n = 0\ndef f(xs):\n    global n\n    n += 1\n    return [n]\n",
    "is constant": "def f(xs):\n    return [1, 2, 3]\n",
    "is the identity": "def f(xs):\n    return xs\n",
    "is long": "def f(xs):\n" + "    xs = [x + 1 for x in xs if x]\n" * 90 + "    return xs\n",
    "is deep": "def f(xs):\n    return " + "-" * 3000 + "1\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_give_nothing(name: str, tmp_path: Path) -> None:
    recipe = recipe_of("code", section={"families": {"lists": {}}})
    group = collected(recipe, TASK, [call("submit", code=HOSTILE[name])])
    assert group.experiences[0].verdict.outcome in ("failed", "tampered", "truncated")
    (found,) = harvested(recipe, [group], tmp_path)
    assert found.lessons == ()


def test_a_program_that_prints_is_only_what_it_returns() -> None:
    noisy = FREE.replace("    total = 0\n", "    total = 0\n    print('x' * 100)\n")
    child, _ = relabelled(noisy)
    assert outcome(child, FREE) == "solved"


# ------------------------------------------------------------ harvested


def test_a_failed_attempt_becomes_a_row_in_its_own_manner(tmp_path: Path) -> None:
    recipe = recipe_of("code", section={"families": {"lists": {}}})
    source = TaskSource(recipe)
    stepped = next(text for text in variants() if source.objection(relabelled(text)[0]) is None)
    group = collected(recipe, TASK, [call("run_tests", code=stepped), call("submit")], [call("run_tests", code=stepped)] * 4)
    assert [e.verdict.outcome for e in group.experiences] == ["failed", "truncated"]
    (found,) = harvested(recipe, [group], tmp_path)
    (lesson, *_) = found.lessons
    row = lesson.row
    assert said(row.prompt_ids).count("3. keep above") == 1
    text = said(row.completion_ids)
    assert stepped in text
    assert "1/1 passed" in text
    trained = said([token for token, mask in zip(row.completion_ids, row.loss_mask, strict=True) if mask])
    assert trained == f"{call('run_tests', code=stepped)}<|im_end|>{call('submit')}<|im_end|>"
    assert lesson.experience.verdict.outcome == "solved"
    assert found.dropped in ({}, {"known": 1})


def variants() -> Iterator[str]:
    for number in range(4, 9):
        yield STEPPED.replace("keep above 4", f"keep above {number}").replace("x > 4", f"x > {number}")


def test_a_task_record_keeps_its_hidden_inputs_hidden() -> None:
    def tests(*lists: list[int]) -> list[dict[str, object]]:
        return [{"kind": "call", "args": [xs], "kwargs": {}, "expected": sum(xs)} for xs in lists]

    payload = {"entry_point": "total", "public_tests": tests([3, 1, 4], [2, 7]), "hidden_tests": tests([61, 62, 63], [])}
    record = Task.create(env="code", family="records", prompt="Return the sum of the items of xs.", payload=payload)
    wrong = FREE.replace("def f(", "def total(")
    child, _ = relabelled(wrong, record)
    assert child.prompt.startswith("Write total(xs).\ntotal([")
    assert outcome(child, wrong) == "solved"
    assert outcome(child, "def total(xs):\n    return sum(xs)\n") == "failed"
    assert "61" not in child.prompt
    assert [[61, 62, 63]] in [test["args"] for test in child.payload["hidden_tests"]]
    assert all(outcome(child, trivial) == "failed" for trivial in MAKER.trivial(child))
