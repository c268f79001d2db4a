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
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import docker
from packaging.requirements import Requirement

from flywheel.sandbox import owner

ROOT = Path(__file__).parents[2]
BASE = "flywheel-base"
BASE_WITH_PACKAGES = "flywheel-base-with-packages"
PACKAGES = "/opt/packages"
INSTALLERS = ("pip", "setuptools", "_distutils_hack")  # flywheel itself is installed without the others
PREFIX = "flywheel-tests-"
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
    with room() as folder:
        yield from _running_in(folder)


def _running_in(folder: Path) -> Iterator[str]:
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


@contextlib.contextmanager
def room() -> Iterator[Path]:
    """Make a folder, in memory where there is enough of it: packages are unpacked several times as fast as on a disk.

    What killed test runs have left there is taken away first.
    """
    has_memory = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > ROOM_BYTES
    for parent in ("/dev/shm", tempfile.gettempdir()):
        for mark in Path(parent).glob(f"{PREFIX}*/owner"):
            if owner.is_gone(mark.read_text()):
                shutil.rmtree(mark.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir="/dev/shm" if has_memory else None, ignore_cleanup_errors=True) as folder:
        Path(folder, "owner").write_text(owner.this())
        yield Path(folder)


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
        self._folder = self._stack.enter_context(room())
        self._root = self._folder / "root"
        self._log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        site, release = mirror()
        # Its mounts (/proc) are in a namespace of their own: what takes the folder away never meets them.
        line = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "debootstrap", "--variant=minbase", release, str(self._root), site]
        self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True)

    def import_into(self, address: str, name: str = BASE, more: Sequence[str] = ()) -> str:
        """Make an image of a daemon, once the files are there, and return its name; `more` is what tar is to add."""
        status = self._process.wait()
        self._log.seek(0)
        assert status == 0, self._log.read().decode(errors="replace")[-3000:]
        line = ["tar", "-C", str(self._root), "--one-file-system", "-c", ".", *more]
        api = docker.APIClient(base_url=address, timeout=600)
        with contextlib.closing(api), subprocess.Popen(line, stdout=subprocess.PIPE) as tar:
            api.import_image_from_stream(tar.stdout, repository=name, tag="latest")
        assert tar.returncode == 0
        return name

    def packages_missing(self) -> str:
        """Return why what this Python has is not what the base's Python needs, or nothing; the base's files are there."""
        lists = "".join(path.read_text("utf-8") for path in self._root.glob("var/lib/apt/lists/*_Packages"))
        theirs = re.search(r"^Package: python3\n(?:.+\n)*?Version: (3\.\d+)\.", lists, re.M)
        ours = f"3.{sys.version_info.minor}"
        if theirs is None or theirs.group(1) != ours:
            return f"the locked packages are installed for Python {ours}, and Debian's is {theirs.group(1) if theirs else 'unknown'}"
        other = [line for line in _locked() if not line.specifier.contains(metadata.version(line.name), prereleases=True)]
        return f"not as requirements.lock says: {', '.join(map(str, other))}" if other else ""

    def import_with_packages(self, address: str) -> str:
        """Make an image on which node-cpu's packages are installed, and return its name.

        Of each there is what pip goes by; its files are links into `PACKAGES`, where `packages_folder` is to be mounted: there are 4 GB of
        them, and copying those takes longer than all the rest.
        """
        venv = Path("opt/flywheel/.venv")
        inside = self._folder / venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        inside.mkdir(parents=True)
        (self._folder / venv / "bin").mkdir()
        (self._folder / venv / "bin/python").symlink_to("/usr/bin/python3")
        (self._folder / venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
        for entry in _installed_entries():
            if entry in INSTALLERS or entry.endswith(".dist-info"):
                shutil.copytree(packages_folder() / entry, inside / entry)
            else:
                (inside / entry).symlink_to(f"{PACKAGES}/{entry}")
        return self.import_into(address, BASE_WITH_PACKAGES, ["-C", str(self._folder), str(venv)])

    def close(self) -> None:
        """Take the files away."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stack.close()


def packages_folder() -> Path:
    """Return the folder in which this Python has the locked packages."""
    return Path(str(metadata.distribution("torch").locate_file(""))).resolve()


def _locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [item for item in wanted if item.marker is None or item.marker.evaluate()]


def _installed_entries() -> list[str]:
    """Return what the locked packages and pip have put into their folder, but for programs."""
    found = {file.parts[0] for name in (*(item.name for item in _locked()), "pip") for file in metadata.files(name) or ()}
    return sorted(found - {"..", "/", "__pycache__"})


def build(address: str, name: str, *, context: Path | None = None, base: str = BASE, **arguments: str) -> str:
    """Build one of docker/'s images on `base` with the classic builder, and return its name."""
    image = name if name.startswith("flywheel-") else f"flywheel-{name}"
    with contextlib.closing(docker.APIClient(base_url=address, timeout=3600)) as api:
        steps: Iterator[dict[str, Any]] = api.build(
            path=str(context or ROOT / "docker" / name),
            dockerfile=str(ROOT / "docker" / name / "Dockerfile"),
            tag=image,
            buildargs={"BASE": base, **arguments},
            network_mode="host",
            rm=True,
            decode=True,
        )
        said = list(steps)
    failed = [step["error"] for step in said if "error" in step]
    assert not failed, f"{failed}:\n{''.join(step.get('stream', '') for step in said)[-4000:]}"
    return image
