"""The warm pool: results and limits, clean children, worker deaths, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.config import SandboxConfig
from flywheel.errors import ConfigError, SandboxError
from flywheel.sandbox import ExecResult, Limits, WarmPool, bubblewrap
from flywheel.sandbox.bubblewrap import Bubblewrap
from flywheel.sandbox.judging import read_frames, run_asserts, run_calls, run_program
from flywheel.sandbox.unsafe import Unsafe
from flywheel.sandbox.worker import Worker

SMALL = Limits(cpu_s=0.3, memory_bytes=128 * 2**20, output_bytes=10_000)
ROOT = Path(__file__).parents[2]
OTHERS = """
    import os
    for pid in range(2, 50):
        try:
            os.kill(pid, 0)
            print(pid == os.getpid())
        except OSError:
            pass
    """


@pytest.fixture(scope="module")
def pool() -> Iterator[WarmPool]:
    made = WarmPool(SandboxConfig(workers=2))
    yield made
    made.close()


def run(pool: WarmPool, source: str, stdin: str = "", limits: Limits = SMALL) -> ExecResult:
    return run_program(pool, textwrap.dedent(source), stdin, limits).result


def test_a_program_reads_and_writes(pool: WarmPool) -> None:
    result = run(pool, "import sys\nprint(input().upper())\nprint('bad', file=sys.stderr)\nsys.exit(3)", stdin="hé\n")
    assert result.stdout.decode() == "HÉ\n"
    assert result.stderr == b"bad\n"
    assert (result.exit_code, result.limit, result.kills_grader) == (3, None, False)


def test_each_limit_is_named(pool: WarmPool) -> None:
    assert run(pool, "while True: pass").limit == "cpu"
    assert run(pool, "while True: print('x' * 1000)").limit == "output"
    assert run(pool, "x = bytearray(10**9)").limit == "memory"
    for quick in (Limits(idle_s=0.2), Limits(wall_s=0.2)):
        sleeper = run(pool, "import time\ntime.sleep(60)", limits=quick)
        assert (sleeper.limit, sleeper.kills_grader) == ("wall", False)


def test_files_stop_at_their_limits(pool: WarmPool) -> None:
    result = run(
        pool,
        """
        try:
            open('/tmp/one', 'wb').write(bytes(10**8))
        except OSError as error:
            print(error.errno)
        try:
            for i in range(20):
                open(f'/tmp/{i}', 'wb').write(bytes(10**7))
        except OSError as error:
            print(error.errno)
        """,
    )
    assert result.stdout.split() == [b"27", b"28"]  # EFBIG, ENOSPC


def test_no_state_is_carried_from_one_execution_to_the_next() -> None:
    single = WarmPool(SandboxConfig())
    try:
        with single._checkout(2) as both:  # hold one back, so that every job runs on the same worker
            single._idle.append(both.pop())
            first = run(single, "import builtins, os\nbuiltins.leak = 1\nopen('/tmp/leak', 'w')\nos.environ['LEAK'] = '1'")
            second = run(single, "import builtins, os\nprint(hasattr(builtins, 'leak'), os.listdir('/tmp'), 'LEAK' in os.environ)")
            both.append(single._idle.pop())
    finally:
        single.close()
    assert first.exit_code == 0
    assert second.stdout == b"False [] False\n"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can read another process's memory")
def test_nothing_of_a_job_is_ever_in_the_memory_that_the_next_child_is_forked_from(pool: WarmPool) -> None:
    needle = b"needle-in-a-job"
    for _ in range(4):
        run(pool, f"print({needle.decode()!r})", stdin=needle.decode() * 100)
    run_calls(pool, "def f(x):\n    return x", "f", [{"args": [needle.decode()], "expected": ""}], SMALL)
    with pool._checkout(2) as workers:
        zygotes = [child for worker in workers for child in children(worker.pid)]
    assert len(zygotes) == 2
    for zygote in zygotes:
        regions = [line.split()[0].split("-") for line in Path(f"/proc/{zygote}/maps").read_text().splitlines() if " rw" in line]
        with open(f"/proc/{zygote}/mem", "rb", buffering=0) as memory:
            for start, end in regions:
                memory.seek(int(start, 16))
                assert needle not in memory.read(int(end, 16) - int(start, 16))


def test_a_child_waits_for_its_job_alone_and_is_replaced_where_it_was_ended(pool: WarmPool) -> None:
    with pool._checkout(2) as workers:
        zygotes = [child for worker in workers for child in children(worker.pid)]
        deadline = time.monotonic() + 20
        while [len(children(zygote)) for zygote in zygotes] != [1, 1]:
            assert time.monotonic() < deadline, "no child waits"
        for zygote in zygotes:
            (waiting,) = children(zygote)
            os.kill(waiting, signal.SIGKILL)
    assert [run(pool, OTHERS).stdout for _ in range(4)] == [b"True\n"] * 4


def test_a_process_that_only_says_that_it_has_ended_is_ended(pool: WarmPool) -> None:
    source = "import os\nprint('said', flush=True)\nos.write(3, bytes(5))\nos.closerange(1, 5)\nwhile True: pass"
    for _ in range(4):
        result = run(pool, source, limits=Limits(cpu_s=60))
        assert (result.exit_code, result.limit, result.stdout, result.frames) == (0, None, b"said\n", b"")
    assert [run(pool, OTHERS).stdout for _ in range(4)] == [b"True\n"] * 4


def test_a_killed_process_is_tried_alone_and_then_blamed(pool: WarmPool) -> None:
    result = run(pool, "import os\nos.kill(os.getpid(), 9)")
    assert result.kills_grader
    assert run(pool, "print(1)").stdout == b"1\n"


def test_a_worker_that_dies_is_replaced_and_its_job_runs_again(pool: WarmPool) -> None:
    with pool._checkout(2) as workers:
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert run(pool, "print(1)").stdout == b"1\n"
    assert run(pool, "print(2)").stdout == b"2\n"


def test_a_pair_ends_with_its_leader_and_is_not_run_again(pool: WarmPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(jobs: object) -> list[ExecResult]:
        raise AssertionError("run again")

    monkeypatch.setattr(pool, "_run_alone", never)
    source = "def f(x):\n    return x\nimport atexit, threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()"
    for _ in range(20):
        results = run_asserts(pool, source, "f", ["assert f(1) == 1", "assert f(2) == 1", "assert f((1,)) == (1,)"], SMALL)
        assert [result.passed for result in results] == [True, False, True]


def test_many_threads_share_the_pool(pool: WarmPool) -> None:
    results: dict[int, bytes] = {}

    def work(n: int) -> None:
        results[n] = run(pool, f"print({n} * 2)").stdout

    threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: f"{2 * n}\n".encode() for n in range(24)}


def test_the_inside_of_a_sandbox(pool: WarmPool) -> None:
    program = """
        import os, socket, json
        def tries(work):
            try:
                work()
                return 'worked'
            except OSError as error:
                return error.errno
        print(json.dumps({
            'uid': os.getuid(), 'pid_parent': os.getppid(), 'host': socket.gethostname(), 'home': os.listdir('/tmp'),
            'proc': os.path.exists('/proc/self'), 'sys': os.path.exists('/sys/kernel'),
            'root': sorted(os.listdir('/')),
            'devices': sorted(os.listdir('/dev')),
            'env': sorted(os.environ),
            'write': [tries(lambda: open(p, 'w')) for p in ('/x', '/dev/x', '/usr/x', '/etc/x')],
            'network': tries(lambda: socket.create_connection(('127.0.0.1', 9), 1)),
            'netlink': tries(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
            'vsock': tries(lambda: socket.socket(40, socket.SOCK_STREAM)),
            'fork': tries(os.fork),
            'exec': tries(lambda: os.execv('/bin/true', ['true'])),
        }))
        """
    inside = json.loads(run(pool, program).stdout)
    assert (inside["uid"], inside["pid_parent"], inside["host"], inside["home"]) == (65534, 1, "sandbox", [])
    assert (inside["proc"], inside["sys"]) == (False, False)
    assert set(inside["root"]) <= {*(Path(f).name for f in bubblewrap.SYSTEM_FOLDERS), "etc", "tmp", "dev", "python"}
    assert inside["devices"] == sorted([*bubblewrap.DEVICES, "stdin"])
    assert not {"PATH_INFO", "USER", "SHELL", "SSH_AUTH_SOCK", "VIRTUAL_ENV"} & set(inside["env"])
    assert all(isinstance(error, int) for error in inside["write"])
    assert inside["network"] != "worked"
    assert (inside["netlink"], inside["vsock"]) == (97, 97)  # EAFNOSUPPORT
    assert (inside["fork"], inside["exec"]) == (1, 1)  # EPERM


@pytest.mark.parametrize(
    "call",
    ["ptrace(16, 1, 0, 0)", "unshare(0x10000000)", "mount(0, 0, 0, 0, 0)", "keyctl(0, 0)", "shmget(0, 4096, 0o1777)", "syscall(425, 1, 0)",
     "syscall(319, b'm', 0)", "syscall(321, 0, 0, 0)", "syscall(323, 0)", "syscall(302, 1, 7, b'x' * 16, 0)"],
)  # fmt: skip
def test_the_filter_denies(pool: WarmPool, call: str) -> None:
    if os.uname().machine != "x86_64" and "syscall" in call:
        pytest.skip("numbers of x86_64")
    source = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.{call}, ctypes.get_errno())"
    if call.startswith("keyctl"):
        source = source.replace("libc.keyctl(", "libc.syscall(250, ")
    assert run(pool, source).stdout == b"-1 1\n"


def test_the_first_process_can_not_be_harmed_from_inside(pool: WarmPool) -> None:
    source = "import os\nfor s in range(1, 65):\n    try:\n        os.kill(1, s)\n    except OSError:\n        pass\nprint('done')"
    for _ in range(4):
        assert run(pool, source).stdout == b"done\n"
    assert run_calls(pool, "def f():\n    return 1", "f", [{"args": [], "expected": 1}], SMALL)[0].passed


def test_a_cut_off_frame_is_dropped_and_a_wrong_one_is_forged() -> None:
    whole = b'\x00\x00\x00\x12["n",0,"end",null]'
    assert read_frames(whole, "n").frames == (("end", None),)
    assert not read_frames(whole[:-1], "n").forged
    assert read_frames(whole, "other").forged
    assert read_frames(whole + whole, "n").forged


def test_nothing_survives_when_the_process_that_holds_the_pool_is_killed() -> None:
    program = """
        import threading, time
        from flywheel.sandbox import Limits, shared_pool
        from flywheel.sandbox.judging import run_program
        pool = shared_pool()
        while len(pool._idle) < pool.capacity:
            time.sleep(0.01)
        pids = [worker.pid for worker in pool._idle]
        job = threading.Thread(target=run_program, args=(pool, "while True: pass", "", Limits(cpu_s=60, wall_s=60)))
        job.start()
        print(*pids, flush=True)
        job.join()  # a main thread that ends takes the pool's own thread, and so the sandboxes, with it
        """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, env=env)
    assert holder.stdout is not None
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    pids += [child for pid in pids for child in children(pid)]
    assert len(pids) == 4
    holder.kill()
    holder.wait()
    holder.stdout.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        assert time.monotonic() < deadline, "a sandbox outlived its holder"
        time.sleep(0.02)


def test_a_closed_pool_says_so() -> None:
    pool = WarmPool()
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        run(pool, "print(1)")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'docker'"):
        WarmPool(SandboxConfig(backend="dokcer"))


def test_a_missing_bubblewrap_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="bubblewrap is not installed"):
        Worker.start(Bubblewrap(SandboxConfig()))


def test_the_unsafe_backend_warns_and_works() -> None:
    with pytest.warns(RuntimeWarning, match="unsafe"):
        pool = WarmPool(SandboxConfig(backend="unsafe"))
    try:
        assert run(pool, "print(1)").stdout == b"1\n"
        assert run(pool, "while True: pass").limit == "cpu"
    finally:
        pool.close()


def test_a_safe_pool_never_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WarmPool().close()


def test_what_a_killed_unsafe_run_left_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import time\nfrom flywheel.config import SandboxConfig\nfrom flywheel.sandbox.unsafe import Unsafe\n"
    program += "started = Unsafe(SandboxConfig()).start()\nprint(started.home, flush=True)\ntime.sleep(60)"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=env) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().decode().strip())
        holder.kill()
    assert left.is_dir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = Unsafe(SandboxConfig()).start()
        Unsafe(SandboxConfig())
    assert not left.exists()
    assert Path(mine.home).is_dir()
    mine.control.close()
    mine.handle.end()
    assert not Path(mine.home).exists()
