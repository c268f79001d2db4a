"""The docker backend: a container is a sandbox, and its first process is a zygote like any other backend's.

The daemon's default runtime is runc; ``[sandbox] runtime = "runsc"`` puts gVisor's kernel between model text and the host's. Nothing in
a container can be reached from the network, so the zygote's control socket comes in through a second process in it, a relay
(`flywheel.sandbox.inside.relay`), whose standard input and output are a stream of the daemon's. The relay is another user than the
zygote and its children, who can neither signal nor read it.

A container ends with its stream, and the daemon removes it then, also when this process is killed. What is left all the same (a daemon that
was stopped in between) is labelled with its owner and removed at the next start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap, docker_profile, owner
from flywheel.sandbox.base import Started
from flywheel.sandbox.bubblewrap import ENVIRONMENT, HOME
from flywheel.sandbox.inside.relay import Relay
from flywheel.sandbox.process import control_pair

LABEL = "flywheel.sandbox"
PYTHON = "python3"
OVERHEAD_BYTES = 256 * 2**20  # the zygote, the relay, and gVisor's kernel where it is used
MAX_PIDS = 256
TIMEOUT_S = 60
FIRST_USER, NUM_USERS = 24_000, 40_000  # where user namespaces of 65536 users, such as a rootless daemon's, still have them
MAX_LOG = 4000
PREPARED = {"flywheel-sandbox-python": "sandbox-python", "flywheel-sandbox-node": "sandbox-node"}


class _Demultiplexer:
    """Takes apart what the daemon sends: standard output is returned, standard error kept as a log."""

    def __init__(self) -> None:
        self.log = bytearray()
        self._head = b""
        self._left = 0
        self._kind = 0

    def __call__(self, data: bytes) -> bytes:
        payload = b""
        while data:
            if not self._left:
                wanted = 8 - len(self._head)
                self._head, data = self._head + data[:wanted], data[wanted:]
                if len(self._head) == 8:
                    self._kind, self._left, self._head = self._head[0], int.from_bytes(self._head[4:], "big"), b""
                continue
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._kind == 1:
                payload += part
            else:
                self.log += part
                del self.log[:-MAX_LOG]
        return payload


class _Container:
    """A `Handle`."""

    def __init__(self, api: Any, name: str) -> None:
        self._api, self._name = api, name
        self._demultiplex = _Demultiplexer()
        self._carrier: threading.Thread | None = None

    def carry(self, control: socket.socket, stream: Any) -> None:
        """Relay the control socket until either side is gone."""
        fd = stream.fileno()

        def work() -> None:
            with contextlib.closing(stream):
                Relay(control, fd, fd, inside=False, unwrap=self._demultiplex).run()

        def cut() -> None:  # the daemon does not always end the stream of a container that died
            with contextlib.suppress(*_docker_errors()):
                self._api.wait(self._name, condition="not-running")
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)

        self._carrier = threading.Thread(target=work, name=f"{self._name}-relay", daemon=True)
        self._carrier.start()
        threading.Thread(target=cut, name=f"{self._name}-end", daemon=True).start()

    @property
    def pid(self) -> int:
        """The host's id of the container's first process, 0 once it is gone."""
        with _errors("inspect a container"):
            return int(self._api.inspect_container(self._name)["State"]["Pid"])

    def resident_bytes(self) -> int:
        """Return 0: the container's control group limits the whole of it."""
        return 0

    def cpu_s(self) -> float:
        """Return 0: a daemon may be far away, and says how busy a container is rather than how busy it was."""
        return 0.0

    def said(self) -> str:
        """Return the relay's complaints and the container's last state."""
        if self._carrier is not None:
            self._carrier.join(timeout=1.0)
        said = bytes(self._demultiplex.log).decode(errors="replace").strip()
        try:
            state = self._api.inspect_container(self._name)["State"]
            logged = self._api.logs(self._name, tail=20).decode(errors="replace").strip()
        except _docker_errors():
            return said or "the container is gone"
        killed = ", killed for its memory" if state.get("OOMKilled") else ""
        return "\n".join(filter(None, (said, logged, f"the container is {state['Status']}{killed}")))[-1500:]

    def end(self) -> None:
        """Remove the container, and wait until it is gone; where the daemon fails, the next start removes what has not ended by itself."""
        with contextlib.suppress(SandboxError):
            _remove(self._api, self._name)
        if self._carrier is not None:
            self._carrier.join(timeout=TIMEOUT_S)


def _remove(api: Any, name: str) -> None:
    import docker

    try:
        api.remove_container(name, force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409:  # the daemon is removing it already
            raise SandboxError(f"can't remove the container {name}: {error}") from error
        _wait_until_gone(api, name)
    except OSError as error:
        raise SandboxError(f"can't remove the container {name}: {error}") from error


def _wait_until_gone(api: Any, name: str) -> None:
    """Ask for a container until it is gone: the daemon's own wait for a removal may miss one that is under way."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            api.inspect_container(name)
        except _docker_errors() as error:
            if getattr(error, "status_code", None) == HTTPStatus.NOT_FOUND:
                return
            raise SandboxError(f"can't remove the container {name}: {error}") from error
        time.sleep(0.05)
    raise SandboxError(f"the container {name} is being removed and not gone after {TIMEOUT_S} s; look into the docker daemon's log")


def _docker_errors() -> tuple[type[Exception], ...]:
    from docker.errors import DockerException

    return DockerException, OSError  # requests' own errors are OSErrors


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except _docker_errors() as error:
        raise SandboxError(f"can't {what}: {error}") from error


class Containers:
    """The backend."""

    name = "docker"

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._reaped = False

    @functools.cached_property
    def _api(self) -> Any:
        import docker

        return docker.from_env(timeout=TIMEOUT_S).api

    def problems(self) -> list[str]:
        """Return what is missing: the SDK, the daemon, the runtime, the image."""
        try:
            import docker
        except ImportError:
            return ["sandbox.backend is 'docker', and docker's SDK for Python is not installed: pip install 'flywheel[docker]'"]
        try:
            known = self._api.info()["Runtimes"]
            image = self._config.image
            self._api.inspect_image(image)
        except docker.errors.ImageNotFound:
            return [*self._runtime_problems(known), f"sandbox.image: there is no image {image!r} here: {_how_to_build(image)}"]
        except _docker_errors() as error:
            where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
            return [
                f"sandbox.backend is 'docker', and its daemon can't be reached at {where} ({_root_cause(error)}). "
                "Start it (systemctl start docker), be in the group 'docker', or set DOCKER_HOST; "
                "sandbox.backend = 'bubblewrap' needs no daemon"
            ]
        return self._runtime_problems(known)

    def _runtime_problems(self, known: dict[str, Any]) -> list[str]:
        runtime = self._config.runtime
        if runtime is None or runtime in known:
            return []
        return [
            f"sandbox.runtime is {runtime!r}, and the docker daemon knows only {', '.join(sorted(known))}: install it and add it to "
            f'"runtimes" in /etc/docker/daemon.json (docker/README.md has the lines for runsc), or leave sandbox.runtime out'
        ]

    def start(self) -> Started:
        """Start a container, and the relay in it."""
        try:
            import docker  # noqa: F401
        except ImportError as error:
            raise SandboxError(self.problems()[0]) from error
        with _errors("start a docker sandbox"):
            if not self._reaped:
                self._reap()
                self._reaped = True
            return self._start()

    def _start(self) -> Started:
        user = FIRST_USER + 2 * secrets.randbelow(NUM_USERS // 2)  # one of its own, because limits on processes are a user's
        name = f"flywheel-{secrets.token_hex(8)}"
        python = [PYTHON, *bootstrap.ARGUMENTS]
        self._api.create_container(
            self._config.image,
            entrypoint=[*python, bootstrap.LISTEN + bootstrap.BOOTSTRAP],
            command=[],
            name=name,
            user=f"{user}:{user}",
            hostname="sandbox",
            environment=ENVIRONMENT,
            labels={LABEL: owner.this()},
            working_dir=HOME,
            network_disabled=True,
            host_config=self._host_config(),
        )
        handle = _Container(self._api, name)
        ours, theirs = control_pair()
        try:
            self._api.start(name)
            relay = [*python, f"{bootstrap.source('relay')}\nmain()"]
            made = self._api.exec_create(name, relay, stdin=True, user=f"{user + 1}:{user + 1}")
            handle.carry(theirs, self._api.exec_start(made["Id"], socket=True))
        except BaseException:
            ours.close()
            theirs.close()
            handle.end()
            raise
        return Started(control=ours, handle=handle, home=HOME, scratch=(HOME, "/dev/shm"))

    def _host_config(self) -> Any:
        disk = self._config.disk_mb * 2**20
        memory = self._config.memory_mb * 2**20 + disk + OVERHEAD_BYTES
        limits = {"core": 0, "memlock": 0, "msgqueue": 0, "nofile": 1024}
        return self._api.create_host_config(
            auto_remove=True,
            cap_drop=["ALL"],
            ipc_mode="none",
            log_config={"Type": "json-file", "Config": {"max-size": "64k", "max-file": "1"}},
            mem_limit=memory,
            memswap_limit=memory,
            network_mode="none",
            oom_score_adj=1000,
            pids_limit=MAX_PIDS,
            read_only=True,
            runtime=self._config.runtime,
            security_opt=["no-new-privileges:true", f"seccomp={docker_profile.docker_json()}"],
            tmpfs={HOME: f"rw,exec,nosuid,nodev,mode=1777,size={disk}"},
            ulimits=[{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()],
        )

    def _reap(self) -> None:
        """Remove the containers of processes that are gone."""
        for container in self._api.containers(all=True, filters={"label": LABEL}):
            if owner.is_gone(container["Labels"][LABEL]):
                _remove(self._api, container["Id"])


def _how_to_build(image: str) -> str:
    folder = PREPARED.get(image.partition(":")[0])
    if folder is None:
        return f"docker pull {image}, or build it (docker/README.md says what it must hold)"
    return f"docker build -t {image} docker/{folder}"


def _root_cause(error: BaseException) -> str:
    while isinstance(error, Exception) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error)
