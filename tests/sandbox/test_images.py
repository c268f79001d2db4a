"""docker/'s images and compose.yaml: what they say, and those that can be built here, built and used."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from flywheel.config import SandboxConfig
from flywheel.sandbox import WarmPool, check, owner
from flywheel.sandbox.judging import run_program
from flywheel.sandbox.languages import Setting
from tests.sandbox import daemon

FOLDER = daemon.ROOT / "docker"
Built = Mapping[str, Future[list[str]]]
IMAGES = ("lean", "node-cpu", "node-gpu", "sandbox-node", "sandbox-python")
# What the README tells users to start a node with, and nothing more.
NODE = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges", "seccomp=unconfined", "apparmor=unconfined"]}


@pytest.fixture
def client(docker_daemon: str) -> Iterator[Any]:
    with contextlib.closing(docker.DockerClient(base_url=docker_daemon, timeout=1800)) as made:
        yield made


def test_every_image_has_a_base_that_can_be_replaced() -> None:
    assert sorted(path.parent.name for path in FOLDER.glob("*/Dockerfile")) == list(IMAGES)
    for name in IMAGES:
        lines = (FOLDER / name / "Dockerfile").read_text().splitlines()
        first = [line for line in lines if line and not line.startswith("#")][:2]
        assert re.fullmatch(r"ARG BASE=[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", first[0]), name
        assert first[1] == "FROM ${BASE}", name
        assert any(re.match("USER (?!root|0)", line) for line in lines), f"{name} runs as root"


def test_no_service_that_runs_model_text_can_reach_docker() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) >= {"engine", "trainer", "sandboxes", "sandbox-python"}
    for name, service in services.items():
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name
        assert not service.keys() & {"privileged", "cap_add", "pid", "devices"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        build = service["build"]
        assert (FOLDER / build["context"] / build.get("dockerfile", "Dockerfile")).is_file(), name
    sandbox = services["sandbox-python"]
    assert (sandbox["network_mode"], sandbox["read_only"], sandbox["ipc"]) == ("none", True, "none")
    assert "seccomp=seccomp.json" in sandbox["security_opt"]
    assert services["trainer"]["depends_on"]["sandboxes"] == {"condition": "service_completed_successfully"}


@pytest.fixture(scope="module")
def sandbox_node(built: Built) -> str:
    return built["sandbox_node"].result()[0]


def test_the_node_sandbox_runs_javascript(sandbox_node: str) -> None:
    config = SandboxConfig(backend="docker", image=sandbox_node)
    with contextlib.closing(WarmPool(config)) as pool:
        run = run_program(pool, "console.log(6 * 7)", "", pool.limits(), Setting(language="javascript"))
    assert run.stdout == "42\n", run


@pytest.mark.slow
def test_the_node_sandbox_keeps_the_contract(sandbox_node: str) -> None:
    broken = {guarantee.name: found for guarantee, found in check.check(SandboxConfig(backend="docker", image=sandbox_node)) if found}
    assert broken == {}


def test_what_killed_runs_have_left_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = owner.this().rpartition(".")[0].rpartition(".")[0]
    for name, mark in {"gone": f"{place}.4194305.1", "live": owner.this(), "elsewhere": "another-machine.1.2.3"}.items():
        (tmp_path / f"{daemon.PREFIX}{name}" / "root").mkdir(parents=True)
        (tmp_path / f"{daemon.PREFIX}{name}" / "owner").write_text(mark)
    with daemon.room() as folder:
        assert (folder / "owner").read_text() == owner.this()
        left = {path.name.removeprefix(daemon.PREFIX) for path in tmp_path.iterdir() if path != folder}
    assert left == {"live", "elsewhere"}
    assert not folder.exists()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to whatever uses the host's network."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=["installed", pytest.param("wheels", marks=pytest.mark.slow)])
def node(
    request: pytest.FixtureRequest, docker_daemon: str, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """How the image node-cpu is run: its packages are this machine's own, mounted, or installed in it from wheels."""
    if request.param == "wheels":
        images, volumes = [_from_wheels(docker_daemon, tmp_path_factory.mktemp("wheels"))], {}
    else:
        images = built["node"].result()
        volumes = {str(daemon.packages_folder()): {"bind": daemon.PACKAGES, "mode": "ro"}}
    yield {"image": images[0], "volumes": volumes, "network_mode": "none", "remove": True}
    with contextlib.closing(docker.APIClient(base_url=docker_daemon)) as api:
        for image in images:  # what follows needs the memory
            api.remove_image(image, force=True)


def _from_wheels(address: str, wheels: Path) -> str:
    """Build the image with wheels that a server here has: a container sees none of this machine's settings of pip."""
    torch = re.search(r"^torch==\S+", (daemon.ROOT / "requirements.lock").read_text(), re.M)
    assert torch is not None
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels)]
    lines = [line for line in (daemon.ROOT / "requirements.lock").read_text().splitlines() if not line.startswith(("#", "torch=="))]
    (wheels / "list").write_text("\n".join(lines))
    subprocess.run([*pip, f"{torch.group()}+cpu"], check=True)
    subprocess.run([*pip, "-r", str(wheels / "list")], check=True)
    with served(wheels) as find_links:
        return daemon.build(address, "node-cpu", context=daemon.ROOT, PIP_FIND_LINKS=find_links, PIP_NO_INDEX="1")


def test_bubblewrap_keeps_the_contract_inside_a_node(client: Any, node: dict[str, Any]) -> None:
    line = ["-c", "python -m flywheel.sandbox.check bubblewrap || true"]
    said = client.containers.run(command=line, entrypoint="sh", **node, **NODE)
    assert b"guarantees hold\n" in said, said.decode()


def test_a_node_without_namespaces_says_what_to_do(client: Any, node: dict[str, Any]) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run(command=["-m", "flywheel.sandbox.check", "bubblewrap"], entrypoint="python", **node)
    said = caught.value.stderr.decode()
    assert "bubblewrap is installed, but this container does not let it make namespaces" in said
    assert "--security-opt seccomp=unconfined" in said
    assert "sandbox.backend = 'docker'" in said


def test_quickstart_takes_its_first_step_in_a_node(client: Any, node: dict[str, Any]) -> None:
    command = ["train", "quickstart", "--run.steps", "1", "--cold_start.steps", "2", "--cold_start.num_demonstrations", "64"]
    command += ["--rollout.groups_per_step", "2", "--rollout.group_size", "4", "--evaluation.tasks_per_environment", "4"]
    said = client.containers.run(command=command, shm_size="1g", stderr=True, **node, **NODE)
    assert b"engine: vllm" in said, said[-3000:]
    assert b"step 1" in said, said[-3000:]
