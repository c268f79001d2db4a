"""``flywheel COMMAND``: the same as ``python -m flywheel.COMMAND``."""

from __future__ import annotations

import importlib
import sys

from flywheel import __version__
from flywheel.registry import closest

COMMANDS = {
    "train": "train a policy by a recipe",
    "eval": "evaluate a run, a checkpoint or a model on held-out tasks",
    "write": "have a model write tasks, and keep those that hold",
    "verify": "judge task and answer lines from standard input",
    "view": "look into a run in a browser, or export it as one HTML file",
    "audit": "judge again what trained, and look for leaks and reward hacks",
    "export": "write verified attempts as a set for supervised training or as preference pairs",
    "store": "ask a run's experience store in SQL",
}


def main() -> int:
    """Run the command that the first word names."""
    words = sys.argv[1:]
    if words == ["--version"]:
        print(f"flywheel {__version__}")
        return 0
    if not words or words[0] not in COMMANDS:
        is_asked = words in (["-h"], ["--help"])
        if words and not is_asked:
            print(f"error: no command {words[0]!r}: {closest(words[0], list(COMMANDS))}", file=sys.stderr)
        usage = ["usage: flywheel COMMAND …", *(f"  {name:<8} {about}" for name, about in COMMANDS.items())]
        print(*usage, sep="\n", file=sys.stdout if is_asked else sys.stderr)
        return 0 if is_asked else 2
    sys.path.insert(0, "")  # as `python -m` does: a recipe may name a module of the current folder
    sys.argv = [f"flywheel {words[0]}", *words[1:]]
    module = f"flywheel.{words[0]}"
    runnable = f"{module}.__main__" if hasattr(importlib.import_module(module), "__path__") else module
    status: int = importlib.import_module(runnable).main(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
