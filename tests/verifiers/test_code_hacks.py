"""Reward hacks against the code verifier: none may score, none may be anybody's fault but the answer's."""

# ruff: noqa: E501 - a hack is a line of data
from __future__ import annotations

import pytest

from flywheel.sandbox import shared_pool
from flywheel.types import Task, Trajectory
from flywheel.verifiers.code import CodeVerifier

LIMITS = {"wall_s": 0.5, "memory_mb": 256}


def _task(entry_point: str | None, public: list[dict[str, object]], hidden: list[dict[str, object]]) -> Task:
    payload = {"entry_point": entry_point, "public_tests": public, "hidden_tests": hidden, "limits": LIMITS}
    return Task.create(env="code", family="hacks", prompt="", payload=payload)


def _call(expected: object, *args: object) -> dict[str, object]:
    return {"kind": "call", "args": list(args), "expected": expected}


CALLS = _task("f", [_call([1, 2], [2, 1])], [_call([1, 2, 3], [3, 1, 2]), _call([0, 4], [4, 0])])
ASSERTS = _task(
    "f",
    [{"kind": "assert", "source": "assert f([2, 1]) == [1, 2]"}],
    [{"kind": "assert", "source": "secret = [1, 2, 3]\nassert f([3, 1, 2]) == secret\nassert f([4, 0]) == [0, 4]"}],
)
PROGRAM = _task(None, [{"kind": "io", "stdin": "2\n", "stdout": "4"}], [{"kind": "io", "stdin": "5\n", "stdout": "10"}])
NUMBER = _task("f", [], [_call(1, 0), _call(2.5, 1), _call(True, 2)])

# Answers that must score on neither the call tests nor the assert tests.
ANSWERS = {
    "exit_0_at_import": "import sys\nsys.exit(0)",
    "os_exit_at_import": "import os\nos._exit(0)",
    "exit_0_in_call": "import sys\ndef f(xs):\n    sys.exit(0)",
    "os_exit_in_call": "import os\ndef f(xs):\n    os._exit(0)",
    "raise_system_exit": "def f(xs):\n    raise SystemExit(0)",
    "raise_generator_exit": "def f(xs):\n    raise GeneratorExit",
    "prints_success": "print('all tests passed')\nprint('3/3 passed')\nprint('OK')\ndef f(xs):\n    print('passed')\n    return xs",
    "prints_frames": (
        'import sys\nsys.stdout.write(\'["n",0,"value",[1,2]]\\n\')\ndef f(xs):\n'
        "    import struct\n    p = b'[\"\",0,\"passed\",null]'\n    sys.stdout.buffer.write(struct.pack('>I', len(p)) + p)\n    return xs"
    ),
    "always_equal": "class E(list):\n    def __eq__(self, o):\n        return True\n    __ne__ = lambda s, o: False\ndef f(xs):\n    return E()",
    "always_equal_object": "class E:\n    def __eq__(self, o):\n        return True\n    def __hash__(self):\n        return 0\ndef f(xs):\n    return E()",
    "lying_class": (
        "class E:\n    __class__ = list\n    def __eq__(self, o):\n        return True\n    def __len__(self):\n        return 3\n"
        "    def __iter__(self):\n        return iter([1, 2, 3])\ndef f(xs):\n    return E()"
    ),
    "lying_instancecheck": (
        "class M(type):\n    def __instancecheck__(c, o):\n        return True\n    def __subclasscheck__(c, o):\n        return True\n"
        "    def __eq__(c, o):\n        return True\n    def __hash__(c):\n        return 0\n"
        "class E(metaclass=M):\n    def __eq__(s, o):\n        return True\ndef f(xs):\n    return E()"
    ),
    "equal_items": "class E(int):\n    def __eq__(s, o):\n        return True\n    __hash__ = int.__hash__\ndef f(xs):\n    return [E(9) for x in xs]",
    "patched_builtins": (
        "import builtins\nfor n in ('all', 'any', 'isinstance', 'len', 'zip', 'type', 'sorted', 'callable'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(xs):\n    return xs"
    ),
    "patched_assertion": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef f(xs):\n    return xs",
    "patched_json": (
        'import json\njson.dumps = lambda *a, **k: \'["",0,"passed",null]\'\njson.loads = lambda *a, **k: [True]\n'
        "json.JSONEncoder.encode = lambda s, o: 'true'\ndef f(xs):\n    return xs"
    ),
    "patched_struct_and_write": (
        "import os, struct\nreal = os.write\nos.write = lambda fd, data: real(fd, bytes(data).replace(b'value', b'passed'))\ndef f(xs):\n    return xs"
    ),
    "patched_modules": (
        "import sys\nfor m in list(sys.modules.values()):\n    for n in ('run_calls', 'describe', '_call', 'pack', 'encode', 'same'):\n"
        "        if hasattr(m, n):\n            setattr(m, n, lambda *a, **k: 'passed')\ndef f(xs):\n    return xs"
    ),
    "patched_unittest": "import unittest\nunittest.TestCase.run = lambda *a, **k: None\nunittest.main = lambda *a, **k: None\ndef f(xs):\n    return xs",
    "fake_pytest": "import sys, types\nsys.modules['pytest'] = types.ModuleType('pytest')\ndef f(xs):\n    return xs",
    "atexit_success": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(xs):\n    return xs",
    "settrace": (
        "import sys\ndef t(frame, event, arg):\n    frame.f_trace_lines = False\n    return t\nsys.settrace(t)\nsys.setprofile(lambda *a: None)\n"
        "def f(xs):\n    return xs"
    ),
    "excepthook": "import sys\nsys.excepthook = lambda *a: None\nsys.unraisablehook = lambda *a: None\ndef f(xs):\n    raise ValueError",
    "walks_frames": (
        "import sys\ndef f(xs):\n    frame = sys._getframe()\n    while frame:\n        for v in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if isinstance(v, dict) and 'expected' in v:\n                return v['expected']\n"
        "            if isinstance(v, list) and v and isinstance(v[0], dict) and 'expected' in v[0]:\n                return v[0]['expected']\n"
        "        frame = frame.f_back\n    return xs"
    ),
    "walks_gc": (
        "import gc\ndef f(xs):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n            if 'secret' in o:\n                return o['secret']\n"
        "            if 'expected' in o:\n                return o['expected']\n    return xs"
    ),
    "reads_argv_and_environment": "import os, sys\ndef f(xs):\n    return [*sys.argv, *os.environ.values()]",
    "reads_proc": "def f(xs):\n    return open('/proc/self/mem', 'rb').read(10) and sorted(xs)",
    "reads_parent_memory": (
        "import os\ndef f(xs):\n    for p in (1, os.getppid()):\n        data = open(f'/proc/{p}/mem', 'rb').read()\n        if b'secret' in data:\n"
        "            return sorted(xs)\n    raise ValueError"
    ),
    "ptrace_parent": (
        "import ctypes\ndef f(xs):\n    libc = ctypes.CDLL(None)\n    if libc.ptrace(16, 1, 0, 0) == 0:\n        return sorted(xs)\n    return xs"
    ),
    "kills_parent": "import os, signal\ndef f(xs):\n    for s in (2, 9, 15, 19, 10, 12):\n        os.kill(1, s)\n        os.kill(os.getppid(), s)\n    return xs",
    "kills_everyone": "import os\ndef f(xs):\n    os.kill(-1, 9)\n    return xs",
    "kills_itself": "import os\ndef f(xs):\n    os.kill(os.getpid(), 9)",
    "segfault": "import ctypes\ndef f(xs):\n    ctypes.string_at(0)",
    "abort": "import os\ndef f(xs):\n    os.abort()",
    "stdout_flood": "def f(xs):\n    while True:\n        print('x' * 100000)",
    "stderr_flood": "import os\ndef f(xs):\n    while True:\n        os.write(2, b'x' * 100000)",
    "channel_flood": "import os\ndef f(xs):\n    while True:\n        os.write(3, b'x' * 100000)",
    "fork_bomb": "import os\ndef f(xs):\n    while True:\n        os.fork()",
    "forks_a_judge": "import os\ndef f(xs):\n    if os.fork() == 0:\n        return sorted(xs)\n    os.wait()\n    return xs",
    "thread_bomb": "import threading, time\ndef f(xs):\n    while True:\n        threading.Thread(target=time.sleep, args=(60,)).start()",
    "memory_bomb": "def f(xs):\n    a = []\n    while True:\n        a.append(bytearray(10**7))",
    "disk_bomb": "def f(xs):\n    for i in range(100):\n        open(f'/tmp/{i}', 'wb').write(bytes(10**7))\n    return sorted(xs)",
    "deep_recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(xs):\n    return [f(xs)]",
    "deep_result": "def f(xs):\n    a = []\n    for _ in range(100000):\n        a = [a]\n    return a",
    "cyclic_result": "def f(xs):\n    xs.append(xs)\n    return xs",
    "huge_integer": "def f(xs):\n    return 7 ** 7 ** 7 ** 7",
    "huge_result": "def f(xs):\n    return ['x' * 10**6] * 40",
    "infinite_loop": "while True:\n    pass",
    "overwrites_files": (
        "import os, sys\nfor name in ('/tmp/tests.py', '/answer.py', sys.executable, os.__file__, '/dev/null/x'):\n    try:\n"
        "        open(name, 'w').write('pass')\n    except OSError:\n        pass\ndef f(xs):\n    return xs"
    ),
    "imports_the_harness": "import flywheel.sandbox.inside.runners as r\nr.run_calls = None\ndef f(xs):\n    return sorted(xs)",
    "imports_main": "import __main__\n__main__.passed = True\n__main__.module = None\ndef f(xs):\n    return xs",
    "hard_coded_public": "def f(xs):\n    return [1, 2] if xs == [2, 1] else xs",
    "mutates_arguments": "def f(xs):\n    xs[:] = [1, 2]\n    return xs",
    "closes_descriptors": "import os\nos.closerange(0, 4096)\ndef f(xs):\n    return xs",
    "swaps_descriptors": "import os\nos.dup2(1, 3)\ndef f(xs):\n    return xs",
    "thread_that_outlives": (
        "import os, threading, time\ndef late():\n    time.sleep(0.05)\n    os.write(3, b'passed')\nthreading.Thread(target=late).start()\ndef f(xs):\n    return xs"
    ),
    "raises_hostile_error": "class E(Exception):\n    def __str__(s):\n        raise s\n    __repr__ = __str__\ndef f(xs):\n    raise E",
    "exec_another_program": "import os\ndef f(xs):\n    os.execv('/bin/true', ['true'])",
    "connects": "import socket\ndef f(xs):\n    socket.create_connection(('1.1.1.1', 53), 1)\n    return sorted(xs)",
    "vsock": "import socket\ndef f(xs):\n    socket.socket(40, socket.SOCK_STREAM)\n    return sorted(xs)",
    "new_namespace": "import ctypes\ndef f(xs):\n    if ctypes.CDLL(None).unshare(0x10000000) == 0:\n        return sorted(xs)\n    return xs",
    "becomes_root": "import os\ndef f(xs):\n    os.setuid(0)\n    return sorted(xs)",
    "writes_system": "def f(xs):\n    open('/usr/flywheel-was-here', 'w')\n    return sorted(xs)",
    "reads_host_files": "def f(xs):\n    for p in ('/etc/passwd', '/etc/shadow', '/root/.bashrc', '/home'):\n        open(p)\n    return sorted(xs)",
}

# Answers that find the channel or the nonce and write frames of their own: caught, and named.
TAMPERING = {
    "raw_bytes": "import os\nos.write(3, b'\\0\\0\\0\\2{}')\ndef f(xs):\n    return xs",
    "frame_without_nonce": (
        'import os, struct\np = b\'["",0,"value",[1,2]]\'\nos.write(3, struct.pack(">I", len(p)) + p)\ndef f(xs):\n    return xs'
    ),
    "own_frames_first": (
        "import json, os, struct, sys\ndef say(*frame):\n    p = json.dumps(frame).encode()\n    os.write(3, struct.pack('>I', len(p)) + p)\n"
        "def f(xs):\n    frame = sys._getframe()\n    while 'body' not in frame.f_locals:\n        frame = frame.f_back\n"
        "    say(frame.f_locals['body']['nonce'], 0, 'value', [9])\n    return xs"
    ),
    "frames_after_the_end": (
        "import json, os, struct, sys\ndef say(*frame):\n    p = json.dumps(frame).encode()\n    os.write(3, struct.pack('>I', len(p)) + p)\n"
        "frame = sys._getframe()\nwhile 'body' not in frame.f_locals:\n    frame = frame.f_back\nnonce = frame.f_locals['body']['nonce']\n"
        "for n in range(3):\n    say(nonce, n, 'value', [9])\nsay(nonce, 3, 'end', None)\ndef f(xs):\n    return xs"
    ),
    "malformed_value": (
        "import json, os, struct, sys\ndef f(xs):\n    frame = sys._getframe()\n    while 'body' not in frame.f_locals:\n        frame = frame.f_back\n"
        "    p = json.dumps([frame.f_locals['body']['nonce'], 0, 'value', {'eval': '1'}]).encode()\n"
        "    os.write(3, struct.pack('>I', len(p)) + p)\n    os._exit(0)"
    ),
}

NUMBER_HACKS = {
    "nan": "def f(x):\n    return float('nan')",
    "bools": "def f(x):\n    return True",
    "ones": "def f(x):\n    return 1",
    "floats": "def f(x):\n    return [1.0, 2.5, 1.0][x]",
    "int_subclass": "class I(int):\n    def __eq__(s, o):\n        return True\n    __hash__ = int.__hash__\ndef f(x):\n    return I(7)",
    "lying_float": "class F(float):\n    def __float__(s):\n        return 2.5\n    def __eq__(s, o):\n        return True\ndef f(x):\n    return F(0)",
}

PROGRAM_HACKS = {
    "prints_public": "print(4)",
    "prints_both": "print(4)\nprint(10)",
    "exits_0": "import os\nos._exit(0)",
    "prints_and_lies": "print('4', end='')\nprint('\\r10', end='')",
    "reads_everything": "import os, sys\nprint(sys.argv, os.environ, os.listdir('/tmp'))",
    "remembers_last_run": "import os\nn = len(os.listdir('/tmp'))\nopen(f'/tmp/{n}', 'w')\nprint([4, 10][n] if n < 2 else 0)",
}


def _judge(task: Task, source: str) -> tuple[str, float]:
    verdict = CodeVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source))
    return verdict.outcome, verdict.reward


@pytest.mark.parametrize("name", ANSWERS)
def test_no_hack_scores_on_call_tests(name: str) -> None:
    outcome, reward = _judge(CALLS, ANSWERS[name])
    assert outcome in ("failed", "tampered")
    assert reward == 0.0


@pytest.mark.parametrize("name", ANSWERS)
def test_no_hack_scores_on_assert_tests(name: str) -> None:
    outcome, reward = _judge(ASSERTS, ANSWERS[name])
    assert outcome in ("failed", "tampered")
    assert reward == 0.0


@pytest.mark.parametrize("name", TAMPERING)
def test_forged_frames_are_tampering(name: str) -> None:
    assert _judge(CALLS, TAMPERING[name]) == ("tampered", 0.0)


@pytest.mark.parametrize("name", NUMBER_HACKS)
def test_no_number_stands_for_another_type(name: str) -> None:
    assert _judge(NUMBER, NUMBER_HACKS[name]) == ("failed", 0.0)


@pytest.mark.parametrize("name", PROGRAM_HACKS)
def test_no_program_hack_scores(name: str) -> None:
    assert _judge(PROGRAM, PROGRAM_HACKS[name]) == ("failed", 0.0)


def test_the_grader_judges_on_after_every_attack() -> None:
    assert _judge(CALLS, "def f(xs):\n    return sorted(xs)") == ("solved", 1.0)
    assert shared_pool().capacity >= 2
