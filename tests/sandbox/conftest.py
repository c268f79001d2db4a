"""The backends that the sandbox tests run on, each of them for real or skipped by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

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
def docker_daemon(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a daemon that has `daemon.BASE` and the Python sandbox's image; ``DOCKER_HOST`` names it meanwhile."""
    why = daemon.missing()
    if why:
        pytest.skip(why)
    used = {name for item in request.session.items if isinstance(item, pytest.Function) for name in item.fixturenames}
    builder = ThreadPoolExecutor(max_workers=1)
    with daemon.running() as address, pytest.MonkeyPatch.context() as patch:
        _base[0].import_into(address)
        daemon.build(address, "sandbox-python")
        _builds.update({name: builder.submit(make, address) for name, make in BUILDS.items() if name in used})
        patch.setenv("DOCKER_HOST", address)
        yield address
        builder.shutdown(cancel_futures=True)


def _node_cpu(address: str) -> list[str]:
    """Build node-cpu on a base that has its packages, and return the names of both."""
    if why := _base[0].packages_missing():
        pytest.skip(why)
    base = _base[0].import_with_packages(address)
    return [daemon.build(address, "node-cpu", context=daemon.ROOT, base=base, PIP_NO_INDEX="1"), base]


# Images that take long are built beside the tests that come before theirs, by the names of the fixtures that wait for them.
BUILDS = {"node": _node_cpu, "sandbox_node": lambda address: [daemon.build(address, "sandbox-node")]}
_builds: dict[str, Future[list[str]]] = {}


@pytest.fixture(scope="session")
def built(docker_daemon: str) -> Mapping[str, Future[list[str]]]:
    """What is built in the background, by its name in `BUILDS`."""
    del docker_daemon
    return _builds


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> SandboxConfig:
    """A recipe's sandbox section for each backend that isolates."""
    if request.param == "bubblewrap":
        return SandboxConfig()
    if request.param == "docker-runsc" and shutil.which("runsc") is None:
        pytest.skip("not installed: runsc (tools/install_docker.sh)")
    request.getfixturevalue("docker_daemon")
    return SandboxConfig(backend="docker", runtime="runsc" if request.param == "docker-runsc" else None)
