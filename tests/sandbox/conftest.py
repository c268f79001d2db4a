"""The backends that the sandbox tests run on, each of them for real or skipped by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from flywheel.config import SandboxConfig
from tests.sandbox import daemon

BACKENDS = ("bubblewrap", "docker", "docker-runsc")


_base: list[daemon.Base] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to make the base image where a test needs it: it takes as long as many other tests together."""
    functions = [item for item in session.items if isinstance(item, pytest.Function)]
    is_needed = any({"backend", "docker_daemon"} & set(item.fixturenames) for item in functions)
    if is_needed and not _base and not daemon.missing() and not session.config.option.collectonly:
        _base.append(daemon.Base())


def pytest_sessionfinish() -> None:
    """Take away what was made."""
    while _base:
        _base.pop().close()


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[str]:
    """The address of a daemon that has `daemon.BASE` and the Python sandbox's image; ``DOCKER_HOST`` names it meanwhile."""
    why = daemon.missing()
    if why:
        pytest.skip(why)
    with daemon.running() as address, pytest.MonkeyPatch.context() as patch:
        _base[0].import_into(address)
        daemon.build(address, "sandbox-python")
        patch.setenv("DOCKER_HOST", address)
        yield address


@pytest.fixture(scope="session")
def debian(docker_daemon: str) -> daemon.Base:
    """The files that the daemon's base image was made of."""
    del docker_daemon
    return _base[0]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> SandboxConfig:
    """A recipe's sandbox section for each backend that isolates."""
    if request.param == "bubblewrap":
        return SandboxConfig()
    if request.param == "docker-runsc" and shutil.which("runsc") is None:
        pytest.skip("not installed: runsc (tools/install_docker.sh)")
    request.getfixturevalue("docker_daemon")
    return SandboxConfig(backend="docker", runtime="runsc" if request.param == "docker-runsc" else None)
