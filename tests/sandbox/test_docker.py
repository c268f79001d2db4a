"""The docker backend beyond the contract: what the daemon is told, what preflight says, what a killed run leaves."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import owner
from flywheel.sandbox.containers import LABEL, Containers
from flywheel.sandbox.contract import HOLDER
from flywheel.sandbox.docker_profile import docker_json
from flywheel.sandbox.worker import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def api(docker_daemon: str) -> Iterator[Any]:
    with contextlib.closing(docker.APIClient(base_url=docker_daemon)) as made:
        yield made


def ours(api: Any) -> set[str]:
    return {container["Id"] for container in api.containers(all=True, filters={"label": LABEL})}


def test_what_the_daemon_is_told(api: Any) -> None:
    before = ours(api)
    worker = Worker.start(Containers(SandboxConfig(backend="docker", disk_mb=8, memory_mb=128)))
    try:
        (container,) = ours(api) - before
        told = api.inspect_container(container)
    finally:
        worker.close()
    host = told["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == ("none", True, ["ALL"], None)
    assert (host["Privileged"], host["IpcMode"], host["PidMode"], host["Binds"], told["Mounts"]) == (False, "none", "", None, [])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] == host["MemorySwap"] == (128 + 8 + 256) * 2**20
    assert host["PidsLimit"] == 256
    assert f"size={8 * 2**20}" in host["Tmpfs"]["/tmp"]
    assert re.fullmatch(r"(\d{5}):\1", told["Config"]["User"])
    assert told["Config"]["Labels"][LABEL] == owner.this()
    assert ours(api) == before


def test_a_killed_run_leaves_no_container(api: Any) -> None:
    before = ours(api)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, SandboxConfig(backend="docker").model_dump_json()], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline())
        left = ours(api) - before
        assert len(left) == 2
        holder.kill()
    # Asked again and again: the daemon's own wait for a removal may miss one that is under way.
    deadline = time.monotonic() + 60
    while ours(api) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours(api) == before


def test_the_next_start_removes_what_belongs_to_nobody(api: Any) -> None:
    mine = owner.this()
    place = mine.rpartition(".")[0].rpartition(".")[0]
    labels = {"live": mine, "gone": f"{place}.4194305.1", "reused": f"{mine}0", "elsewhere": "another-machine.1.2.3", "unreadable": "x"}
    made = {
        name: api.create_container("flywheel-sandbox-python", ["python3"], labels={LABEL: label}, network_disabled=True)["Id"]
        for name, label in labels.items()
    }
    try:
        Worker.start(Containers(SandboxConfig(backend="docker"))).close()
        assert {name for name, container in made.items() if container in ours(api)} == {"live", "elsewhere", "unreadable"}
    finally:
        for container in made.values():
            with contextlib.suppress(docker.errors.NotFound):
                api.remove_container(container, force=True)


def test_preflight_tells_what_is_missing(docker_daemon: str) -> None:
    assert Containers(SandboxConfig(backend="docker")).problems() == []
    (image,) = Containers(SandboxConfig(backend="docker", image="flywheel-sandbox-node:none")).problems()
    assert "docker build -t flywheel-sandbox-node:none docker/sandbox-node" in image
    (runtime,) = Containers(SandboxConfig(backend="docker", runtime="kata")).problems()
    assert "sandbox.runtime is 'kata', and the docker daemon knows only" in runtime
    both = Containers(SandboxConfig(backend="docker", runtime="kata", image="nobody/none")).problems()
    assert len(both) == 2
    with pytest.raises(SandboxError, match="No such image"):
        Containers(SandboxConfig(backend="docker", image="nobody/none")).start()


def test_an_image_without_python_says_so(api: Any, docker_daemon: str) -> None:
    api.tag("flywheel-base", "flywheel-no-python")
    before = ours(api)
    with pytest.raises(SandboxError, match="python3"):
        Containers(SandboxConfig(backend="docker", image="flywheel-no-python")).start()
    assert ours(api) == before


def test_without_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/socket")
    (problem,) = Containers(SandboxConfig(backend="docker")).problems()
    assert "its daemon can't be reached at unix:///nonexistent/socket" in problem
    assert "'bubblewrap'" in problem
    with pytest.raises(SandboxError):
        Containers(SandboxConfig(backend="docker")).start()


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    (problem,) = Containers(SandboxConfig(backend="docker")).problems()
    assert "pip install 'flywheel[docker]'" in problem
    with pytest.raises(SandboxError, match="pip install"):
        Containers(SandboxConfig(backend="docker")).start()


def test_the_committed_profile_is_the_one_that_is_used() -> None:
    assert (ROOT / "docker/seccomp.json").read_text() == docker_json(), "python -m flywheel.sandbox.docker_profile > docker/seccomp.json"


def test_the_profile_works_without_a_zygote(api: Any) -> None:
    source = """
import ctypes, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def errno(*call):
    ctypes.set_errno(0)
    libc.syscall(*call)
    return ctypes.get_errno()
x86 = platform.machine() == "x86_64"
print(errno(272 if x86 else 97, 0x10000000), errno(435, 0, 0), errno(425, 1, 0), errno(56 if x86 else 220, 0x10000011, 0, 0, 0, 0))
for family in (0, 16, 17, 38, 40):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        print("made")
    except OSError as error:
        print(error.errno)
for family in (1, 2, 10):
    socket.socket(family, socket.SOCK_STREAM).close()
try:
    import resource
    resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))
except PermissionError as error:
    print(error.errno)
if os.fork() == 0:
    os._exit(0)
print(os.wait()[1])
"""
    told = api.create_host_config(network_mode="none", security_opt=[f"seccomp={docker_json()}"], auto_remove=False)
    container = api.create_container("flywheel-sandbox-python", ["python3", "-c", source], host_config=told)["Id"]
    try:
        api.start(container)
        api.wait(container)
        said = api.logs(container).decode().split()
    finally:
        api.remove_container(container, force=True)
    assert said == ["1", "38", "1", "1", *["97"] * 5, "1", "0"]


def test_no_image_folder_shadows_the_sdk() -> None:
    assert not list((ROOT / "docker").rglob("*.py"))
    assert Path(docker.__file__).parent != ROOT / "docker"
