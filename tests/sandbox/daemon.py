"""A docker daemon of the tests' own, with a base image made from Debian's packages: nothing is pulled, nothing of the machine's is used.

It needs root and the Debian packages docker.io and debootstrap (and runsc, for gVisor): ``tools/install_docker.sh`` installs them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parents[2]
BASE = "flywheel-base"
START_S = 60.0
ROOM_BYTES = 6 * 2**30
ESSENTIAL = ("dockerd", "containerd", "debootstrap", "setpriv", "unshare")


def missing() -> str:
    """Return why no daemon can be started here, or nothing."""
    if os.geteuid() != 0:
        return "a docker daemon of the tests' own needs root"
    absent = [name for name in ESSENTIAL if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (tools/install_docker.sh)" if absent else ""


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a daemon in a folder of its own and yield its address; it and everything of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="flywheel-docker-", dir=_roomy()))
    runsc = shutil.which("runsc")
    # Without a bridge there is no network for gVisor to take over, and it says so unless told that none is wanted.
    runtimes = {"runsc": {"path": runsc, "runtimeArgs": ["--network=none"]}} if runsc else {}
    (folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
    address = f"unix://{folder}/socket"
    # Its mounts are in a namespace of their own, and end with it.
    line = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "dockerd", "--config-file", f"{folder}/daemon.json", "-H", address]
    line += ["--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--bridge=none"]
    line += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(daemon, address, folder / "log")
        yield address
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _roomy() -> str | None:
    """Return a folder in memory where there is enough of it: packages are unpacked several times as fast as on a disk."""
    return "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > ROOM_BYTES else None


def _wait(daemon: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with contextlib.closing(docker.DockerClient(base_url=address)) as client:
                client.ping()
            return
        except (docker.errors.DockerException, OSError):
            assert daemon.poll() is None, f"dockerd ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"dockerd does not answer:\n{log.read_text()[-3000:]}"
            time.sleep(0.1)


def mirror() -> tuple[str, str]:
    """Return the Debian mirror and release that this machine's own packages come from."""
    codename = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    release = codename.group(1) if codename else "stable"
    wanted = ["Created-By: Packages", "Component: main", f"Codename: {release}"]
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)", *wanted], capture_output=True, text=True, check=False)
    sites = [site for site in listed.stdout.split() if "security" not in site]
    return (sites[0].rstrip("/") if sites else "http://deb.debian.org/debian"), release


class Base:
    """The files of `BASE`, from Debian's packages; unpacking begins at once, beside whatever else runs. Close it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._root = self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="flywheel-base-", dir=_roomy(), ignore_cleanup_errors=True)
        )
        self._log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        site, release = mirror()
        # Its mounts (/proc) are in a namespace of their own: what takes the folder away never meets them.
        line = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "debootstrap", "--variant=minbase", release, self._root, site]
        self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True)

    def import_into(self, address: str) -> None:
        """Make the image of a daemon, once the files are there."""
        status = self._process.wait()
        self._log.seek(0)
        assert status == 0, self._log.read().decode(errors="replace")[-3000:]
        with contextlib.closing(docker.APIClient(base_url=address)) as api:
            tar = subprocess.Popen(["tar", "-C", self._root, "--one-file-system", "-c", "."], stdout=subprocess.PIPE)
            with tar:
                api.import_image_from_stream(tar.stdout, repository=BASE, tag="latest")
        assert tar.returncode == 0

    def close(self) -> None:
        """Take the files away."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stack.close()


def build(address: str, name: str, *, context: Path | None = None, **arguments: str) -> str:
    """Build one of docker/'s images on `BASE` with the classic builder, and return its name."""
    image = name if name.startswith("flywheel-") else f"flywheel-{name}"
    with contextlib.closing(docker.APIClient(base_url=address, timeout=3600)) as api:
        steps: Iterator[dict[str, Any]] = api.build(
            path=str(context or ROOT / "docker" / name),
            dockerfile=str(ROOT / "docker" / name / "Dockerfile"),
            tag=image,
            buildargs={"BASE": BASE, **arguments},
            network_mode="host",
            rm=True,
            decode=True,
        )
        said = list(steps)
    failed = [step["error"] for step in said if "error" in step]
    assert not failed, f"{failed}:\n{''.join(step.get('stream', '') for step in said)[-4000:]}"
    return image
