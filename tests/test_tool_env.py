from __future__ import annotations

import json
from typing import Literal

import pytest
from gymnasium.utils.env_checker import check_env

from flywheel.tool_env import ToolEnv, UnicodeText
from flywheel.types import Task, ToolCall, Trajectory, Turn


class Counter(ToolEnv):
    """Count to the target."""

    name = "counter"
    solved_threshold = 1.0

    def draw(self, seed: int) -> Task:
        return Task.create(env="counter", family="counter", prompt=f"Reach {seed % 5}.", payload={"target": seed % 5}, seed=seed)

    def begin(self, task: Task) -> None:
        self.count = 0

    def add(self, amount: int, how: Literal["up", "down"] = "up") -> str:
        """Add to the count.

        Args:
            amount: How much.
            how: Which way.
        """
        self.count += amount if how == "up" else -amount
        return f"count {self.count}"

    def submit(self) -> str:
        """End."""
        assert self.task is not None
        self.end(reward=float(self.count == self.task.payload["target"]))
        return "ended"

    def _hidden(self) -> str:
        """Not a tool."""
        return ""

    def undocumented(self, x: int) -> str:
        return ""

    @staticmethod
    def half(count: int) -> int:
        """Return half of it; a function for others to use, and no tool."""
        return count // 2

    @classmethod
    def made(cls, count: int) -> Counter:
        """Make one; no tool, either."""
        return cls()


def act(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def test_gymnasium_accepts_it() -> None:
    check_env(Counter(), skip_render_check=True)


def test_tools_are_public_documented_typed_methods_with_schemas_from_their_signatures() -> None:
    tools = {tool["function"]["name"]: tool["function"] for tool in Counter().tools}
    assert set(tools) == {"add", "submit"}
    assert tools["add"]["description"] == "Add to the count."
    parameters = tools["add"]["parameters"]
    assert parameters["required"] == ["amount"]
    assert parameters["properties"]["amount"] == {"description": "How much.", "type": "integer"}
    assert parameters["properties"]["how"]["enum"] == ["up", "down"]


def test_an_episode_gives_its_reward_at_the_end_only() -> None:
    env = Counter()
    task = env.draw(3)
    assert env.reset(options={"task": task}) == ("Reach 3.", {})
    assert env.step(act("add", amount=4)) == ("count 4", 0.0, False, False, {})
    assert env.step(act("add", amount=1, how="down")) == ("count 3", 0.0, False, False, {})
    assert env.step(act("submit")) == ("ended", 1.0, True, False, {})


@pytest.mark.parametrize(
    "action",
    [
        "",
        "hello",
        "[]",
        "null",
        "3",
        '{"name": "add"}',
        '{"name": 3}',
        act("remove"),
        act("_hidden"),
        act("reset"),
        act("add", amount="many"),
        act("add", amount=1, extra=1),
        act("add", amount=1, how="sideways"),
        '{"name": "add", "arguments": 3}',
        '{"name": "add", "arguments": [["a", 1]]}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_nonsense_is_a_turn_with_an_error_message(action: str) -> None:
    env = Counter()
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step(action)
    assert observation.startswith("Error: ")
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})


def test_the_answer_is_the_last_submit() -> None:
    calls = (ToolCall(name="submit", arguments={"smiles": "C"}), ToolCall(name="look", arguments={"smiles": "N"}))
    turn = Turn(prompt_ids=(), completion_ids=(), behavior_logprobs=None, policy_version="", text="", tool_calls=calls)
    attempt = Trajectory(task_id="t", turns=(turn,), stop_reason="terminated", answer=None)
    assert Counter().answer(attempt) == "C"


def test_unicode_text_takes_newlines_and_mathematics_but_not_endless_text() -> None:
    space = UnicodeText(max_length=10, seed=0)
    assert space.contains("⊢ a\n∀ b")
    assert not space.contains("x" * 11)
    assert not space.contains(3)
    assert all(space.contains(UnicodeText(max_length=64, seed=s).sample()[:10]) for s in range(5))


@pytest.mark.parametrize("arguments", ["value: int", "self_: str, other: int"])
def test_a_tool_with_the_name_of_a_member_is_refused(arguments: str) -> None:
    with pytest.raises(TypeError, match=r"Quiz\.answer: a member of ToolEnv has this name, so it can be no tool"):
        exec(f"class Quiz(ToolEnv):\n    def answer(self, {arguments}) -> str:\n        'Answer.'", {"ToolEnv": ToolEnv})


def test_a_member_may_be_written_anew() -> None:
    class Quiz(ToolEnv):
        """A quiz."""

        name = "quiz"

        def answer(self, attempt: Trajectory) -> str | None:
            """Return what is judged."""
            return None

        def render(self) -> None:
            """Show the board."""

        def close(self) -> None:
            """Close."""

        def submit(self) -> None:
            """End."""

    assert [tool["function"]["name"] for tool in Quiz().tools] == ["submit"]


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("def look(self, at, how: str, far) -> str: 'Look.'", "at, far have no type; mend that, or call it _look if the policy is not"),
        ("def submit(self, answer): 'End.'", "answer has no type"),
        ("def look(self, *places: str) -> str: 'Look.'", r"a call names each argument, so \*, \*\* and / can't be used"),
        ("async def look(self, at: str) -> str: 'Look.'", "a tool is called without await"),
    ],
)
def test_a_method_that_looks_like_a_tool_and_can_be_none_is_refused(method: str, why: str) -> None:
    with pytest.raises(TypeError, match=rf"Quiz\.\w+: public methods with a docstring are tools, and of this one {why}"):
        exec(f"class Quiz(ToolEnv):\n    {method}", {"ToolEnv": ToolEnv})


def test_helpers_are_no_tools_and_break_nothing() -> None:
    class Board:
        def neighbours(self, cell):  # type: ignore[no-untyped-def]
            """Of another library, whose manner is its own."""

    class Quiz(Board, ToolEnv):
        def _near(self, cell):  # type: ignore[no-untyped-def]
            """Begins with an underscore."""

        def far(self, cell):  # type: ignore[no-untyped-def]
            return cell

        def submit(self) -> None:
            """End."""

    assert [tool["function"]["name"] for tool in Quiz().tools] == ["submit"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def submit(self, answer: object()): 'End.'", r"Quiz\.submit: its parameters' types make no JSON schema"),
        ("def submit(self, answer: 'Answer'): 'End.'", r"Quiz\.submit: .* it can be no tool: name 'Answer' is not defined"),
    ],
)
def test_a_tool_whose_types_say_nothing_is_refused(body: str, why: str) -> None:
    found: dict[str, type[ToolEnv]] = {}
    exec(f"class Quiz(ToolEnv):\n    {body}", {"ToolEnv": ToolEnv}, found)
    with pytest.raises(TypeError, match=why):
        found["Quiz"]()
