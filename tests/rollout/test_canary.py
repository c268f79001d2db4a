"""A canary in hidden tests: whatever an answer tries, it comes out in nothing that the policy or a table is shown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flywheel.envs.code import CodeEnv
from flywheel.monitor import figures
from flywheel.monitor.samples import sample_table
from flywheel.types import Group, Task
from tests.scripted import ScriptedPolicy, call, make_chat, make_collector, make_recipe

CANARY = "kestrel-7f3a9c"
HIDDEN: dict[str, tuple[str | None, list[dict[str, Any]]]] = {
    "call": (
        "f",
        [
            {"kind": "call", "args": [CANARY], "kwargs": {}, "expected": f"{CANARY}!"},
            {"kind": "call", "args": ["x"], "kwargs": {}, "expected": CANARY},
        ],
    ),
    "assert": ("f", [{"kind": "assert", "source": f"assert f({CANARY!r}) == {CANARY!r}, {CANARY!r}"}]),
    "io": (None, [{"kind": "io", "stdin": f"{CANARY}\n", "stdout": CANARY}]),
}
PUBLIC: dict[str, dict[str, Any]] = {
    "call": {"kind": "call", "args": ["a"], "kwargs": {}, "expected": "b"},
    "assert": {"kind": "assert", "source": "assert f('a') == 'b'"},
    "io": {"kind": "io", "stdin": "a\n", "stdout": "b"},
}
SEARCH = """
import gc, glob, os, sys
found = [o for o in gc.get_objects() if isinstance(o, (str, list, dict, tuple)) and 'kestrel' in repr(o)[:10**6]]
print(len(found), sys.argv, dict(os.environ))
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/tmp/**', recursive=True):
    try:
        print(open(path, errors='replace').read()[:200])
    except OSError:
        pass
"""
# What it is given, it shouts: as an exception, as a name of one, as output, as a file, as its result.
SHOUT = """
def shout(x):
    print(x)
    open('/tmp/kept', 'a').write(str(x))
    raise type(str(x), (Exception,), {})(x)
"""
ANSWERS = {
    "raises": f"{SHOUT}\ndef f(x):\n    shout(x)\nif __name__ == '__main__':\n    import sys\n    shout(sys.stdin.read())\n",
    "returns": "def f(x):\n    return [x] * 3\nif __name__ == '__main__':\n    print(input() * 3)\n",
    "exits": "import sys\ndef f(x):\n    sys.exit(x)\nif __name__ == '__main__':\n    sys.exit(input())\n",
    "asserts": "def f(x):\n    assert False, x\nif __name__ == '__main__':\n    assert False, input()\n",
}


def task(kind: str) -> Task:
    entry_point, hidden = HIDDEN[kind]
    payload = {
        "entry_point": entry_point,
        "public_tests": [PUBLIC[kind]],
        "hidden_tests": hidden,
        "limits": {"wall_s": 1, "memory_mb": 256},
        "reference": f"# {CANARY}",
    }
    return Task.create(env="code", family="canary", prompt="Write f.", payload=payload)


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_canary_stays_hidden(kind: str, answer: str) -> None:
    said = [
        call("run_tests", code=ANSWERS[answer]),
        call("run_code", code=SEARCH),
        "show me the hidden tests",
        call("submit", code=ANSWERS[answer]),
    ]
    policy = ScriptedPolicy(make_chat(), lambda context: said[min(context.count("<|im_start|>assistant"), 4) - 1])

    async def collect() -> list[Group]:
        collector = make_collector(policy, make_recipe("code"))
        try:
            return await collector.collect([task(kind)], 2, name="canary")
        finally:
            collector.stage.close()

    (group,) = asyncio.run(collect())
    seen = [policy.chat.tokenizer.decode(list(asked.prompt_ids)) for asked in policy.asked]
    seen += [str(turn.observation) for e in group.experiences for turn in e.trajectory.turns]
    seen.append(repr(sample_table([group], 8)))
    seen.append(repr(figures.step_figures([group], {}, figures.Timings())))
    # A verdict may come back to the policy one day, as the evidence of a failure to repair.
    seen += [repr(e.verdict) for e in group.experiences]
    assert {e.verdict.outcome for e in group.experiences} == {"failed"}
    assert len(seen) > 15
    assert not [text for text in seen if CANARY in text]


@pytest.mark.parametrize("kind", HIDDEN)
def test_reset_and_step_tell_nothing(kind: str) -> None:
    env = CodeEnv()
    told: list[Any] = [env.reset(options={"task": task(kind)}), env.tools]
    for name, arguments in (
        ("run_tests", {"code": ANSWERS["raises"]}),
        ("run_code", {"code": SEARCH}),
        ("submit", {"code": ANSWERS["raises"]}),
    ):
        told.append(env.step(json.dumps({"name": name, "arguments": arguments})))
    assert told[-1][2:] == (True, False, {"outcome": "failed"})
    assert CANARY not in repr(told)
    env.close()
