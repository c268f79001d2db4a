"""Whether a task says what a problem in words says: a judge model reads the task back into words and compares the two.

The model sees the problem only when it compares, so what it says of the task comes from the task. What it does not clearly call the same is
another task.
"""

from __future__ import annotations

from flywheel.tasks.chat_model import ChatModel
from flywheel.tasks.writer import read_reply
from flywheel.types import Task, derive_seed

_READ = (
    "Say in plain words, precisely and completely, what this asks for: every assumption, and what is to be shown or found. Do not solve "
    "it, and do not mend it."
)
_COMPARE = (
    "Do A and B ask for exactly the same: the same assumptions, the same conclusion, the same numbers and kinds of numbers? "
    'Reply with one JSON object and nothing else: {"same": true or false, "why": a sentence}.'
)
MAX_REASON = 300


class RoundTrip:
    """A `flywheel.tasks.writer.Judge`.

    Args:
        model: The judge.
    """

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    async def __call__(self, problem: str, task: Task, seed: int) -> str | None:
        """Return why a task does not say what a problem says; None where the judge says that it does.

        Raises:
            FlywheelError: the judge can't be asked.
        """
        read = await self._model.reply(f"{task.prompt}\n\n{_READ}", seed=derive_seed(seed, "read"))
        compared = await self._model.reply(f"A:\n\n{problem}\n\nB:\n\n{read.text}\n\n{_COMPARE}", seed=derive_seed(seed, "compare"))
        try:
            verdict = read_reply(compared.text)
        except ValueError:
            verdict = {"why": "its reply can't be read"}
        return None if verdict.get("same") is True else f"the judge reads something else in it: {verdict.get('why', '')}"[:MAX_REASON]
