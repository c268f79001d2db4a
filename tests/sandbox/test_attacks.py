"""The attack corpus (``attacks/*.toml``) on every backend: each attack ends as it must, and leaves the sandbox and the host as they were.

An attack is one of: ``refused``, a Python expression that must raise; ``syscall``, a number and arguments that must fail; ``program``, an
answer for the pool; ``python`` and ``command``, a script and a shell line for a session. ``ends`` lists the outcomes that are right, and
whatever prints ESCAPED has. A fixed ``sample`` runs with ``make test``, all of them with ``make test-all``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import platform
import secrets
import socket
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import ExecResult, Limits, WarmPool
from flywheel.sandbox.judging import run_program
from flywheel.sandbox.session import WorkerSandbox

# Only what must end by a limit on time has little of it: a busy machine's slowest kernel is to decide nothing.
LIMITS = Limits(cpu_s=20.0, idle_s=10.0, wall_s=10.0, memory_bytes=192 * 2**20, num_processes=32, output_bytes=10_000)
ENDS = {"ok", "error", "signal", "cpu", "wall", "memory", "output", "disk", "files", "processes", "kills_grader", "died"}
REFUSED = """
import os
try:
    result = {}
except OSError as error:
    print("contained", error)
else:
    print("ESCAPED", result)
"""
SYSCALL = """
import ctypes
print("contained" if ctypes.CDLL(None).syscall(*{}) == -1 else "ESCAPED")
"""
CONTROL = """
import os
others = []
for pid in range(2, os.getpid() + 1000):
    try:
        os.kill(pid, 0)
        others.append(pid)
    except OSError:
        pass
print(others == [os.getpid()], [f for f in ("/dev/shm/left", "/dev/mqueue/left") if os.path.exists(f)], 6 * 7)
"""


def corpus() -> list[Any]:
    params = []
    for path in sorted(Path(__file__).with_name("attacks").glob("*.toml")):
        for attack in tomllib.loads(path.read_text("utf-8"))["attack"]:
            marks = [] if attack.get("sample") else [pytest.mark.slow]
            params.append(pytest.param(attack, id=f"{path.stem}-{attack['name']}", marks=marks))
    return params


class Host:
    """What the attacks are after, and what shows that they got there."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flywheel-host-"))
        os.chmod(folder, 0o777)
        self.file = Path(folder, "canary")
        self.file.write_text("canary")
        self.file.chmod(0o666)
        abstract = f"flywheel-host-{secrets.token_hex(8)}"
        self._ends = [self._listen(socket.AF_INET, ("127.0.0.1", 0)), self._listen(socket.AF_UNIX, f"{folder}/socket")]
        self._ends.append(self._listen(socket.AF_UNIX, f"\0{abstract}"))
        os.chmod(f"{folder}/socket", 0o777)
        self.names = {
            "@FILE@": str(self.file),
            "@PORT@": str(self._ends[0].getsockname()[1]),
            "@SOCKET@": f"{folder}/socket",
            "@ABSTRACT@": abstract,
            "@PID@": str(os.getpid()),
        }

    def _listen(self, family: socket.AddressFamily, address: Any) -> socket.socket:
        end = self._stack.enter_context(socket.socket(family))
        end.bind(address)
        end.listen()
        end.setblocking(False)
        return end

    def check(self) -> None:
        assert self.file.read_text() == "canary"
        assert sorted(entry.name for entry in self.file.parent.iterdir()) == ["canary", "socket"]
        for end in self._ends:
            with pytest.raises(BlockingIOError):
                end.accept()

    def close(self) -> None:
        self._stack.close()


class Target:
    """A pool and a session of one backend."""

    def __init__(self, config: SandboxConfig) -> None:
        self._runner = asyncio.Runner()
        self.pool = WarmPool(config)
        self._sandbox = WorkerSandbox(config)
        self._session = self._runner.run(self._sandbox.create())

    def program(self, source: str, limits: Limits = LIMITS) -> ExecResult:
        return run_program(self.pool, source, "", limits).result

    def command(self, argv: list[str], limits: Limits = LIMITS) -> ExecResult | None:
        """Run a command; None where it took the sandbox with it."""
        try:
            return self._runner.run(self._session.exec(argv, limits=limits))
        except SandboxError:
            self._runner.run(self._session.reset())
            return None

    def python(self, source: str, limits: Limits = LIMITS) -> ExecResult | None:
        where = self.program("import sys\nprint(sys.executable)", Limits()).stdout.decode().strip()
        return self.command([where, "-I", "-c", source], limits)

    def renew(self) -> None:
        self._runner.run(self._session.reset())

    def close(self) -> None:
        self._runner.run(self._session.close())
        self._runner.close()
        self.pool.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_CANARY", f"canary-{secrets.token_hex(4)}")
        with contextlib.closing(Host()) as made:
            yield made


@pytest.fixture(scope="module")
def target(backend: SandboxConfig, host: Host) -> Iterator[Target]:
    with contextlib.closing(Target(backend)) as made:
        yield made


def ending(result: ExecResult | None) -> str:
    if result is None:
        return "died"
    if result.kills_grader:
        return "kills_grader"
    if result.limit is not None:
        return result.limit
    return "signal" if result.exit_code < 0 else "error" if result.exit_code else "ok"


def run(target: Target, host: Host, attack: dict[str, Any]) -> tuple[ExecResult | None, list[str]]:
    (kind,) = attack.keys() & {"refused", "syscall", "program", "python", "command"}
    if kind == "syscall":
        if platform.machine() != "x86_64":
            pytest.skip("numbers of x86-64")
        return target.program(SYSCALL.format(attack[kind])), ["ok", "signal"]
    ends = attack.get("ends", [])
    limits = dataclasses.replace(LIMITS, cpu_s=0.5 if "cpu" in ends else LIMITS.cpu_s, idle_s=1.0 if "wall" in ends else LIMITS.idle_s)
    source = attack[kind]
    for name, value in host.names.items():
        source = source.replace(name, value)
    if kind == "refused":
        return target.program(REFUSED.format(source)), ["ok"]
    if kind == "program":
        return target.program(source, limits), ends
    return target.python(source, limits) if kind == "python" else target.command(["sh", "-c", source], limits), ends


@pytest.mark.parametrize("attack", corpus())
def test_the_attack_is_contained(target: Target, host: Host, attack: dict[str, Any]) -> None:
    result, ends = run(target, host, attack)
    assert ending(result) in ends, result
    said = result.stdout if result is not None else b""
    assert b"ESCAPED" not in said, said
    if "stdout" in attack and ending(result) == "ok":
        assert said.decode() == attack["stdout"]
    if attack.keys() & {"refused", "syscall"} and ending(result) == "ok":
        assert said.startswith(b"contained"), said
    control = target.program(CONTROL + "print(os.listdir('/tmp'))", Limits())
    assert control.stdout == b"True [] 42\n[]\n", control
    if attack.keys() & {"python", "command"}:
        alone = target.python(CONTROL, Limits())
        if alone is None and "died" in ends:  # what the attack left took the sandbox with it afterwards; the next one is whole
            alone = target.python(CONTROL, Limits())
        assert alone is not None
        assert alone.stdout == b"True [] 42\n"
        target.renew()
    host.check()


# What these do to an unprotected host is harmless.
REAL = {
    "fork_bomb", "run_a_program", "subprocess", "multiprocessing", "read_the_hosts_file", "write_the_hosts_file", "climb_out_of_the_folder",
    "the_hosts_loopback", "the_hosts_socket_file", "the_hosts_abstract_socket", "kill_the_harness_on_the_host", "files_in_memory",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:sandbox backend 'unsafe'")
def test_the_attacks_are_real() -> None:
    with contextlib.closing(Host()) as host, contextlib.closing(Target(SandboxConfig(backend="unsafe"))) as target:
        done = {}
        for attack in (param.values[0] for param in corpus()):
            if attack["name"] in REAL:
                result, _ = run(target, host, attack)
                done[attack["name"]] = result is not None and (b"ESCAPED" in result.stdout or b"contained" not in result.stdout)
    assert done == dict.fromkeys(REAL, True)


def test_the_corpus_is_whole() -> None:
    attacks = [param.values[0] for param in corpus()]
    assert len(attacks) >= 60
    assert len({attack["name"] for attack in attacks}) == len(attacks)
    for attack in attacks:
        assert set(attack.get("ends", [])) <= ENDS, attack["name"]
        assert ("ends" in attack) == bool(attack.keys() & {"program", "python", "command"}), attack["name"]
