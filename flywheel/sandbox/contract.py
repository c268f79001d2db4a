"""What every sandbox backend must guarantee, each as a check that runs for real. `flywheel.sandbox.check` is the command.

A check returns nothing where its guarantee holds, and raises `BrokenGuaranteeError` with what it found where it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap
from flywheel.sandbox.base import Limits
from flywheel.sandbox.bubblewrap import ENVIRONMENT
from flywheel.sandbox.judging import run_asserts, run_program
from flywheel.sandbox.pool import WarmPool
from flywheel.sandbox.process import family as family_of
from flywheel.sandbox.session import WorkerSandbox, WorkerSession

EPERM = {"errno": 1}
HARMLESS_DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (10, 229)}  # null zero full random urandom, own terminals, fuse
OWN_VARIABLES = {*ENVIRONMENT, "HOSTNAME", "LD_LIBRARY_PATH", "LC_CTYPE", "PWD"}
QUICK = Limits(cpu_s=0.5, idle_s=5.0, wall_s=20.0, memory_bytes=128 * 2**20, output_bytes=20_000)
GONE_WITHIN_S = 30.0
HOLDER = """
import json, sys, threading, warnings
from flywheel.config import SandboxConfig
from flywheel.sandbox import Limits, WarmPool
from flywheel.sandbox.judging import run_program
warnings.simplefilter("ignore")
pool = WarmPool(SandboxConfig.model_validate_json(sys.argv[1]))
with pool._checkout(2) as workers:
    pids = [worker.pid for worker in workers]
busy = threading.Thread(target=run_program, args=(pool, "while True: pass", "", Limits(cpu_s=60, wall_s=60)))
busy.start()
print(json.dumps(pids), flush=True)
busy.join()
"""
HERD = """
import mmap, os, time
for _ in range(8):
    if os.fork() == 0:
        x = mmap.mmap(-1, SHARE << 20)
        for _ in range(SHARE):
            x.write(bytes(1 << 20))
        time.sleep(60)
        os._exit(0)
os.wait()
"""
LEAVE = """
import builtins
builtins.leak = 1
for path in PATHS:
    try:
        open(path, "w")
    except OSError:
        pass
"""
LOOK = """
import builtins, os
left = [path for path in PATHS if os.path.exists(path)]
print(bool(left or hasattr(builtins, "leak")))
for path in left:
    os.unlink(path)
"""


class BrokenGuaranteeError(Exception):
    """A backend does not keep a promise."""


def require(holds: bool, found: object) -> None:
    """Raise where something does not hold."""
    if not holds:
        raise BrokenGuaranteeError(str(found)[:400])


class Bench:
    """What the checks share: a pool, a session, what the host hides, and what two programs inside found. Close it."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config = config.model_copy(update={"memory_mb": 128, "disk_mb": 16})  # small, because they are to be used up
        self._stack = contextlib.ExitStack()
        self._loop = self._stack.enter_context(asyncio.Runner())
        self.pool = WarmPool(config)
        self._stack.callback(self.pool.close)
        self.sandbox = WorkerSandbox(config)
        self.session: WorkerSession = self.run(self.sandbox.create())
        self._stack.callback(lambda: self.run(self.session.close()))
        self._surveys: dict[str, dict[str, Any]] | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something asynchronous to its end."""
        return self._loop.run(work)

    def program(self, source: str, stdin: str = "", limits: Limits = QUICK) -> Any:
        """Run a Python program in the pool and return how it ended."""
        return run_program(self.pool, source, stdin, limits).result

    def shell(self, line: str, limits: Limits = QUICK, **more: Any) -> Any:
        """Run a shell command in the session and return how it ended."""
        return self.run(self.session.exec(["sh", "-c", line], limits=limits, **more))

    def surveys(self) -> dict[str, dict[str, Any]]:
        """Return what a judged program and a command of a session find when they try what must not work."""
        if self._surveys is None:
            with _secrets() as known:
                stdin, source = json.dumps(known), bootstrap.source("survey")
                first = self.program(source, stdin, Limits(cpu_s=20))
                require(first.exit_code == 0, f"the survey did not run: {first}")
                found = {"program": json.loads(first.stdout)}
                python = found["program"]["executable"]
                second = self.run(self.session.exec([python, "-I", "-c", source], stdin=stdin.encode(), limits=Limits(cpu_s=20)))
                require(second.exit_code == 0, f"the survey did not run as a command: {second}")
                found["command"] = json.loads(second.stdout)
                self._surveys = found
        return self._surveys

    def close(self) -> None:
        """End every sandbox."""
        self._stack.close()


@contextlib.contextmanager
def _secrets() -> Iterator[dict[str, Any]]:
    """What the host has and nobody inside may reach: listening sockets, a file that all may read, a process, a variable."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flywheel-check-")))
        folder.chmod(0o755)
        (folder / "secret").write_text("secret")
        abstract = f"flywheel-check-{os.getpid()}"
        bound: dict[str, tuple[socket.AddressFamily, Any]] = {
            "tcp": (socket.AF_INET, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, f"{folder}/socket"),
            "abstract": (socket.AF_UNIX, f"\0{abstract}"),
        }
        ends: dict[str, socket.socket] = {}
        for name, (family, address) in bound.items():
            ends[name] = stack.enter_context(socket.socket(family))
            ends[name].bind(address)
            ends[name].listen()
        os.chmod(f"{folder}/socket", 0o777)
        yield {
            "tcp": ends["tcp"].getsockname(),
            "unix": f"{folder}/socket",
            "abstract": abstract,
            "file": f"{folder}/secret",
            "pid": os.getpid(),
        }


def _each(bench: Bench, name: str, holds: Callable[[Any], bool]) -> None:
    for who, survey in bench.surveys().items():
        require(holds(survey[name]), f"in a {who}: {name} is {survey[name]!r}")


# ---------------------------------------------------------------- it works


def programs_run(bench: Bench) -> None:
    """Programs read, write and end as they would elsewhere."""
    result = bench.program("import sys\nprint(input()[::-1])\nprint('bad', file=sys.stderr)\nsys.exit(3)", "abc\n")
    require((result.exit_code, result.stdout, result.stderr, result.limit) == (3, b"cba\n", b"bad\n", None), result)


def much_data_passes(bench: Bench) -> None:
    """A megabyte goes in and comes out."""
    result = bench.program("import sys\nsys.stdout.write(sys.stdin.read())", "x" * 2**20, Limits(output_bytes=2**21))
    require(result.stdout == b"x" * 2**20, f"{len(result.stdout)} bytes came back, {result.limit}")


def pairs_talk(bench: Bench) -> None:
    """Two sandboxes talk over the socket between them, and a dead leader ends its companion."""
    tests = ["assert f('x' * 300_000) == 'x' * 300_000", "assert f(1) == 2"]
    kinds = [result.kind for result in run_asserts(bench.pool, "def f(x):\n    return x", "f", tests, Limits())]
    require(kinds == ["passed", "wrong"], kinds)


def sessions_run(bench: Bench) -> None:
    """A session keeps files between commands, which get their input, environment and exit status."""
    bench.run(bench.session.put({"a/b": b"one\n"}))
    result = bench.shell('cat a/b; cat; echo "$WORD" >&2; exit 7', stdin=b"in", env={"WORD": "w"})
    require((result.exit_code, result.stdout, result.stderr) == (7, b"one\nin", b"w\n"), result)
    require(bench.run(bench.session.get("a/b")) == b"one\n", "get gave other bytes than put took")


def sessions_reset(bench: Bench) -> None:
    """A reset session is a fresh one, and a closed one says so."""

    async def work() -> None:
        session = await bench.sandbox.create()
        try:
            await session.put({"left": b"behind"})
            await session.reset()
            require((await session.exec(["ls", "-A"])).stdout == b"", "a file outlived reset")
        finally:
            await session.close()
        with contextlib.suppress(SandboxError):
            await session.exec(["true"])
            require(False, "a closed session ran a command")

    bench.run(work())


def executions_share_nothing(bench: Bench) -> None:
    """Nothing that one execution changes is there in the next, in any folder that can be written."""
    paths = [f"{folder}/leak" for folder in bench.surveys()["program"]["writable"]]
    leave, look = (source.replace("PATHS", repr(paths)) for source in (LEAVE, LOOK))
    for _ in range(2 * bench.pool.capacity):
        require(bench.program(leave).exit_code == 0, "the first execution failed")
        found = bench.program(look)
        require(found.stdout == b"False\n", found)


# ---------------------------------------------------------------- limits


def cpu_is_limited(bench: Bench) -> None:
    """A busy program ends at its CPU time, in a session too."""
    for result in (bench.program("while True: pass"), bench.shell("while :; do :; done")):
        require(result.limit == "cpu", result)


def wall_is_limited(bench: Bench) -> None:
    """A sleeping program ends at its wall time, in a session too."""
    quick = Limits(idle_s=0.3, wall_s=3)
    for result in (bench.program("import time\ntime.sleep(60)", limits=quick), bench.shell("sleep 60", quick)):
        require(result.limit == "wall", result)


def memory_is_limited(bench: Bench) -> None:
    """A program that takes too much memory is told so and ends; so do processes of a command that take too much together."""
    result = bench.program("x = bytearray(10**9)")
    require(result.limit == "memory", result)
    python = bench.surveys()["program"]["executable"]
    share = bench.config.memory_mb // 2  # eight of them are more than a container with its overhead has
    allowed = Limits(cpu_s=60, idle_s=60, wall_s=60, memory_bytes=bench.config.memory_mb * 2**20)
    try:
        together = bench.run(bench.session.exec([python, "-c", HERD.replace("SHARE", str(share))], limits=allowed))
    except SandboxError:  # a kernel of its own dies as a whole
        bench.run(bench.session.reset())
    else:
        require(together.limit == "memory", together)


def output_is_limited(bench: Bench) -> None:
    """A flood of output ends whoever writes it."""
    for result in (bench.program("while True: print('x' * 1000)"), bench.shell("yes")):
        require(result.limit == "output" and len(result.stdout) <= QUICK.output_bytes, (result.limit, len(result.stdout)))


def disk_is_limited(bench: Bench) -> None:
    """A file has a largest size, and so has the whole private folder."""
    one = bench.program("open('big', 'wb').write(bytes(10**8))")
    require(one.limit == "disk", one)
    size = bench.config.disk_mb // 8 + 2
    many = bench.program(
        f"for i in range(10):\n    open(str(i), 'wb').write(bytes({size} * 2**20))", limits=Limits(file_bytes=2**34, memory_bytes=2**30)
    )
    require(many.limit == "disk", many)


def processes_are_limited(bench: Bench) -> None:
    """A judged program starts no process, and a command of a session only so many."""
    forked = bench.program("import os\ntry:\n    os.fork()\nexcept OSError as e:\n    print(e.errno)")
    require(forked.stdout == b"1\n", forked)
    line = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done; echo all"
    bomb = bench.shell(line, Limits(num_processes=12, cpu_s=5, idle_s=2, wall_s=20))
    require(b"all" not in bomb.stdout, bomb)


def files_are_limited(bench: Bench) -> None:
    """A program has so many files open and no more."""
    result = bench.program("files = []\nwhile True:\n    files.append(open('/dev/null'))")
    require(result.limit == "files", result)


# ---------------------------------------------------------------- isolation


def nobody_is_root(bench: Bench) -> None:
    """Programs run as an ordinary user, without capabilities, and gain none."""
    _each(bench, "uid", lambda ids: 0 not in ids)
    _each(bench, "capabilities", lambda value: value == 0)
    _each(bench, "no_new_privileges", lambda value: value == 1)
    _each(bench, "setuid", lambda value: isinstance(value, dict))


def calls_are_filtered(bench: Bench) -> None:
    """Unusual system calls and address families are refused."""
    _each(bench, "seccomp", lambda value: value == 2)
    _each(bench, "denied", lambda errors: all(error in (1, 38) for error in errors.values()))
    _each(bench, "families", lambda found: all(isinstance(value, dict) for value in found.values()))


def the_environment_is_empty(bench: Bench) -> None:
    """No variable of the host's user is inside, and none can be read from another process."""
    _each(bench, "environment", lambda found: set(found) <= OWN_VARIABLES)
    _each(bench, "others_environment", lambda found: all(isinstance(value, dict) or set(value) <= OWN_VARIABLES for value in found))


def the_network_is_unreachable(bench: Bench) -> None:
    """Neither the host's sockets nor anything further away can be reached."""
    for name in ("tcp", "internet", "unix", "abstract"):
        _each(bench, name, lambda value: isinstance(value, dict))
    _each(bench, "interfaces", lambda value: isinstance(value, dict) or set(value) <= {"lo"})


def files_are_the_sandboxs_own(bench: Bench) -> None:
    """The host's files are not there, and nothing but the private folder can be written."""
    _each(bench, "file", lambda value: value is False)
    allowed = {bench.session.home, "/dev/shm"}
    for who, survey in bench.surveys().items():
        extra = [path for path in survey["writable"] if path not in allowed]
        require(not extra, f"in a {who}, these can be written: {extra}")


def devices_are_harmless(bench: Bench) -> None:
    """Only devices without state can be opened."""
    _each(bench, "devices", lambda found: all(tuple(numbers) in HARMLESS_DEVICES for numbers in found.values()))


def processes_are_the_sandboxs_own(bench: Bench) -> None:
    """The host's processes can't be seen, nor its name; the sandbox's first process can't be signalled."""
    _each(bench, "host_process", lambda value: value in ({"errno": 3}, EPERM))
    _each(bench, "first_process", lambda value: value == EPERM)
    _each(bench, "hostname", lambda value: value != socket.gethostname())


# ---------------------------------------------------------------- nothing stays


def nothing_outlives_a_command(bench: Bench) -> None:
    """What a command started ends with it."""
    bench.shell("(while :; do echo x >> ticks; sleep 0.01; done) & sleep 0.2")
    first = bench.run(bench.session.get("ticks"))
    time.sleep(0.2)
    require(bench.run(bench.session.get("ticks")) == first, "a process went on after its command had ended")


def nothing_outlives_close(bench: Bench) -> None:
    """A closed sandbox has no process left."""
    pool = WarmPool(bench.config)
    with pool._checkout(2) as workers:
        pids = [worker.pid for worker in workers]
        family = [each for pid in pids for each in family_of(pid)]
    pool.close()
    _wait_until_gone(family)


def nothing_outlives_a_killed_run(bench: Bench) -> None:
    """When the process that holds the sandboxes is killed, they end, in the middle of an execution too."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, bench.config.model_dump_json()], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        pids = json.loads(holder.stdout.readline() or "[]")
        require(bool(pids), "the holder started no sandbox")
        family = [each for pid in pids for each in family_of(pid)]
        holder.kill()
    _wait_until_gone(family)


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while alive := [pid for pid in pids if _is_alive(pid)]:
        require(time.monotonic() < deadline, f"processes outlived their sandbox: {alive}")
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarantee:
    """One promise and the check of it; `isolation` is what a sandbox is for and ``unsafe`` can't give."""

    name: str
    text: str
    isolation: bool
    check: Callable[[Bench], None]


def _guarantees(isolation: bool, *checks: Callable[[Bench], None]) -> tuple[Guarantee, ...]:
    return tuple(Guarantee(name=check.__name__, text=(check.__doc__ or "").strip(), isolation=isolation, check=check) for check in checks)


GUARANTEES = (
    *_guarantees(False, programs_run, much_data_passes, pairs_talk, sessions_run, sessions_reset),
    *_guarantees(False, cpu_is_limited, wall_is_limited, memory_is_limited, output_is_limited, files_are_limited),
    *_guarantees(True, disk_is_limited, processes_are_limited, executions_share_nothing),
    *_guarantees(True, nobody_is_root, calls_are_filtered, the_environment_is_empty, the_network_is_unreachable),
    *_guarantees(True, files_are_the_sandboxs_own, devices_are_harmless, processes_are_the_sandboxs_own),
    *_guarantees(False, nothing_outlives_a_command, nothing_outlives_close, nothing_outlives_a_killed_run),
)
