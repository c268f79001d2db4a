"""Serves a recorded session of the real REPL: ``python lean_replay.py RECORDING.in``; each request is answered as it was then.

A request that is not the recording's next one is answered with a message that says so, and the process ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def blocks(text: str) -> list[str]:
    """Return the parts of a recording, which blank lines separate."""
    return [part for part in (block.strip() for block in text.split("\n\n")) if part]


def requests(recording: Path) -> list[dict[str, Any]]:
    """Return a recording's requests as the REPL read them: it joins the lines of one."""
    return [json.loads(block.replace("\n", "")) for block in blocks(recording.read_text("utf-8"))]


def answers(recording: Path) -> list[str]:
    """Return a recording's answers, as they were printed."""
    return blocks(recording.with_suffix(".expected.out").read_text("utf-8"))


def main(recording: Path) -> None:
    """Serve."""
    pairs = list(zip(requests(recording), answers(recording), strict=True))
    lines: list[str] = []
    for line in sys.stdin:
        if line.strip():
            lines.append(line)
            continue
        request = json.loads("".join(lines))
        lines = []
        wanted, answer = pairs.pop(0)
        if wanted != request:
            print(json.dumps({"message": f"got {request!r}, expected {wanted!r}"}) + "\n", flush=True)
            return
        print(answer + "\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
