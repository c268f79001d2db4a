"""The code environment and its task families."""

from __future__ import annotations

import json

import pytest
from gymnasium.utils.env_checker import check_env

from flywheel.contracts import draw_params, level_of
from flywheel.envs.code import CodeEnv
from flywheel.envs.code.families import STEPS
from flywheel.tool_env import ToolEnv
from flywheel.types import Task, ToolCall, Trajectory, Turn
from flywheel.verifiers.code import CodeVerifier

REVERSE = Task.create(
    env="code",
    family="test",
    prompt="Write f(xs).\n1. reverse\nf([4, 1]) == [1, 4]",
    payload={
        "entry_point": "f",
        "public_tests": [{"kind": "call", "args": [[4, 1]], "expected": [1, 4]}],
        "hidden_tests": [{"kind": "call", "args": [[31337, 2, 3]], "expected": [3, 2, 31337]}],
        "limits": {"wall_s": 1.0, "memory_mb": 256},
        "reference": "def f(xs):\n    return xs[::-1]\n",
    },
)
RIGHT = "def f(xs):\n    return xs[::-1]\n"


def action(name: str, **arguments: str) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def play(*actions: str) -> tuple[list[str], float, str | None]:
    env = CodeEnv()
    env.reset(options={"task": REVERSE})
    observations, reward, outcome = [], 0.0, None
    for text in actions:
        observation, reward, terminated, _, info = env.step(text)
        observations.append(observation)
        if terminated:
            outcome = info["outcome"]
    return observations, reward, outcome


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_it() -> None:
    check_env(CodeEnv(), skip_render_check=True)


def test_tools_and_their_schemas() -> None:
    tools = {tool["function"]["name"]: tool["function"] for tool in CodeEnv().tools}
    assert set(tools) == {"run_code", "run_tests", "submit"}
    assert tools["run_code"]["parameters"]["required"] == ["code"]
    assert "required" not in tools["submit"]["parameters"]
    assert "Without code" in tools["submit"]["description"]


def test_test_then_submit() -> None:
    observations, reward, outcome = play(action("run_tests", code=RIGHT), action("submit"))
    assert observations == ["1/1 passed", "submitted"]
    assert (reward, outcome) == (1.0, "solved")


def test_observations_say_what_is_wrong() -> None:
    wrong, printed, raised, empty = play(
        action("run_tests", code="def f(xs):\n    return xs\n"),
        action("run_code", code="print(1 + 1)"),
        action("run_code", code="x = 1\nx / 0"),
        action("run_code", code=""),
    )[0]
    assert wrong == "0/1 passed\nf([4, 1]): got [4, 1], expected [1, 4]"
    assert printed == "2"
    assert "ZeroDivisionError" in raised
    assert "line 2" in raised
    assert empty == "(no output)"


def test_observations_show_what_was_printed_and_where_it_broke() -> None:
    tested, ran = play(
        action("run_tests", code="def f(xs):\n    print('got', xs)\n    return xs\n"),
        action("run_code", code="import sys\nprint('out')\nprint('err', file=sys.stderr)\ndef g():\n    raise KeyError('k')\ng()"),
    )[0]
    assert tested == "0/1 passed\nf([4, 1]): got [4, 1], expected [1, 4]\nprinted:\ngot [4, 1]"
    assert ran.startswith("out\n\nerr\n")
    assert "line 5, in g" in ran
    assert ran.endswith("KeyError: 'k'")


def test_observations_are_short_and_hold_nothing_hidden() -> None:
    observations = play(
        action("run_code", code="print('x' * 10**5)"),
        action("run_tests", code="def f(xs):\n    return 'y' * 10**5\n"),
        action("run_tests", code="def f(xs):\n    raise ValueError('z' * 10**5)\n"),
        action("run_code", code="while True: pass"),
        action("run_code", code="import sys, gc\nprint([o for o in gc.get_objects() if isinstance(o, int) and o == 31337], sys.argv)"),
        action("submit", code="def f(xs):\n    return xs\n"),
    )[0]
    assert all(len(text) <= 400 for text in observations)
    assert not any("31337" in text for text in observations)
    assert "CPU time limit" in observations[3]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"name": "fly"}', '{"name": "run_code"}', '{"name": "run_code", "arguments": {"code": 1}}']
)
def test_nonsense_is_a_turn_with_an_error(text: str) -> None:
    observations, reward, outcome = play(text)
    assert observations[0].startswith("Error:")
    assert (reward, outcome) == (0.0, None)


def trajectory(*calls: ToolCall | None) -> Trajectory:
    turns = tuple(
        Turn(prompt_ids=(), completion_ids=(), behavior_logprobs=None, policy_version="", text="", tool_calls=(call,) if call else ())
        for call in calls
    )
    return Trajectory(task_id="t", turns=turns, stop_reason="terminated", answer=None)


def test_the_answer_is_what_submit_names() -> None:
    answer = CodeEnv().answer
    tested, run = ToolCall(name="run_tests", arguments={"code": "a"}), ToolCall(name="run_code", arguments={"code": "b"})
    bare, own = ToolCall(name="submit", arguments={}), ToolCall(name="submit", arguments={"code": "c"})
    assert answer(trajectory(tested, bare)) == "a"
    assert answer(trajectory(tested, run, None, bare)) == "b"
    assert answer(trajectory(tested, own)) == "c"
    assert answer(trajectory(tested, ToolCall(name="submit", arguments={"code": " "}))) == "a"
    assert answer(trajectory(ToolCall(name="submit", arguments={"code": 5}), own)) == "c"
    assert answer(trajectory(own, tested, bare)) == "a"
    assert answer(trajectory(tested, run)) is None
    assert answer(trajectory(bare)) is None


def test_submitting_nothing_fails() -> None:
    assert play(action("submit"))[1:] == (0.0, "failed")


# ---------------------------------------------------------------- families


@pytest.mark.parametrize("family", STEPS)
def test_generation_is_deterministic_and_varied(family: str) -> None:
    generator = STEPS[family]
    assert len(generator.knobs) >= 3
    tasks = [generator.generate(draw_params(generator.knobs, {}, seed), seed) for seed in range(300)]
    again = generator.generate(draw_params(generator.knobs, {}, 7), 7)
    assert again == tasks[7]
    keys = {generator.key(task) for task in tasks}
    # Of K equally likely keys, 300 draws leave about 300 - 300²/2K distinct: 3,000 keys leave 285.
    assert len(keys) >= 270
    assert len({task.id for task in tasks}) == 300
    assert max(len(task.prompt) for task in tasks) < 160
    assert max(len(task.payload["reference"]) for task in tasks) < 320


@pytest.mark.parametrize("family", STEPS)
def test_every_knob_reaches_its_ends(family: str) -> None:
    generator = STEPS[family]
    for end in ("low", "high"):
        params = {name: getattr(knob, end) for name, knob in generator.knobs.items()}
        assert level_of(generator.knobs, params) == (1 if end == "low" else 5)
        for seed in range(10):
            task = generator.generate(params, seed)
            assert len(task.payload["steps"]) >= params["num_ops"]
    with pytest.raises(ValueError, match="num_ops"):
        generator.generate({**params, "num_ops": 99}, 0)


@pytest.mark.parametrize("family", STEPS)
def test_references_pass_and_near_misses_fail(family: str) -> None:
    generator, verifier = STEPS[family], CodeVerifier()
    for seed in range(12):
        task = generator.generate(draw_params(generator.knobs, {}, seed), seed)
        generator.validate(task)
        head, *lines, last = [line for line in task.payload["reference"].splitlines() if not line.startswith("    #")]
        first = 1 if lines[0].startswith("    n = a") or "a" in head.split("(")[1] else 0
        for at in range(first, len(lines)):
            source = "\n".join([head, *lines[:at], *lines[at + 1 :], last])
            attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source)
            assert verifier.verify(task, attempt).outcome == "failed", (task.prompt, source)


@pytest.mark.parametrize("family", STEPS)
def test_demonstrations_solve_through_the_environment(family: str) -> None:
    env, generator = CodeEnv(), STEPS[family]
    for seed in range(5):
        task = generator.generate(draw_params(generator.knobs, {}, seed), seed)
        prompt, _ = env.reset(options={"task": task})
        assert prompt == task.prompt
        first, second = generator.demonstrate(task)
        assert env.step(first)[:3] == ("1/1 passed", 0.0, False)
        observation, reward, terminated, _, info = env.step(second)
        assert (observation, reward, terminated, info["outcome"]) == ("submitted", 1.0, True, "solved")


def test_the_key_is_of_the_function_not_of_its_wording() -> None:
    lists = STEPS["lists"]

    def keyed(body: str) -> str:
        payload = {"reference": f"def f(xs):\n{body}    return xs\n"}
        return lists.key(Task.create(env="code", family="lists", prompt="", payload=payload))

    reverse, add = "    xs = xs[::-1]\n", "    xs = [x + 3 for x in xs]\n"
    assert keyed(reverse + add) == keyed(add + reverse)
    assert keyed(reverse + add) != keyed(add)
    assert keyed(add) != keyed(add.replace("3", "4"))


def test_prompts_show_one_worked_example_and_no_hidden_test() -> None:
    for generator in STEPS.values():
        task = generator.generate(draw_params(generator.knobs, {}, 3), 3)
        (public,) = task.payload["public_tests"]
        shown = ", ".join(repr(arg) for arg in public["args"])
        assert task.prompt.splitlines()[-1] == f"f({shown}) == {public['expected']!r}"
        assert task.payload["reference"] not in task.prompt


def test_the_base_is_tool_env() -> None:
    assert issubclass(CodeEnv, ToolEnv)
    assert (CodeEnv.name, CodeEnv.verifier) == ("code", "code")
