"""The package as others get it: a wheel built from an sdist, installed elsewhere, used from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("envs", "verifiers", "recipes")
SOURCES = ("flywheel", *LINKED, "pyproject.toml", "README.md", "LICENSE")

USE = """
import json
from importlib.metadata import entry_points
from typing import get_args
import flywheel
from flywheel import registry
from flywheel.recipe import load_recipe, shipped_recipes
for kind in get_args(registry.Kind):
    for name in registry.names(kind):
        registry.resolve(kind, name)
from flywheel.testing.environment import EnvironmentContract
from flywheel.testing.relabeller import check_relabeller
from flywheel.view.app import STATIC, static
assert all(static(name) for name in ["index.html", *STATIC])
recipes = shipped_recipes()
for name in recipes:
    load_recipe(name)
(script,) = entry_points(group="console_scripts", name="flywheel")
script.load()
print(json.dumps({"file": flywheel.__file__, "recipes": sorted(recipes)}))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command without network; return its standard output, or fail with all it said."""
    settings = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    ran = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of the sdist of a copy of the sources was installed."""
    work = tmp_path_factory.mktemp("packaging")
    copy = work / "copy"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, str(work / "sdist"), cwd=copy)
    (sdist,) = (work / "sdist").iterdir()
    shutil.unpack_archive(sdist, work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(work / "wheel"), ".", cwd=unpacked)
    (wheel,) = (work / "wheel").iterdir()
    run(*pip, "install", "-q", "--no-deps", "--target", str(work / "site"), str(wheel), cwd=work)
    return work / "site"


def test_the_wheel_adds_one_name(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()} - {"bin", "__pycache__"}
    assert {name for name in names if not name.endswith(".dist-info")} == {"flywheel"}


def test_the_wheel_holds_every_source_file(installed: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return {path for path in found if "__pycache__" not in path}

    expected = files(ROOT / "flywheel").union(*({f"{name}/{path}" for path in files(ROOT / name)} for name in LINKED))
    assert files(installed / "flywheel") == expected


def test_names_and_recipes_are_found_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    told = json.loads(run(sys.executable, "-c", USE, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert Path(told["file"]).is_relative_to(installed)
    assert told["recipes"] == sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
    assert told["recipes"]


def test_the_locked_lists_hold_what_is_declared_and_nothing_that_breaks_a_cpu() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = {"requirements": locked(ROOT / "requirements.lock")}
    lists["requirements-dev"] = lists["requirements"] | locked(ROOT / "requirements-dev.lock")
    declared = {
        "requirements": [*project["dependencies"], *project["optional-dependencies"]["cpu"]],
        "requirements-dev": project["optional-dependencies"]["dev"],
    }
    for name, wanted in declared.items():
        for requirement in map(Requirement, wanted):
            version = lists[name].get(canonicalize_name(requirement.name), "0")
            assert version in requirement.specifier, f"{name}.lock does not hold {requirement}: make lock"
    broken_on_cpu = {"torchvision", "torchaudio", "torchcodec"}
    assert [p for names in lists.values() for p in names if p in broken_on_cpu or p.startswith(("nvidia-", "cuda-"))] == []
    assert not any("+" in version for names in lists.values() for version in names.values()), "local versions exist on some indexes only"


def locked(path: Path) -> dict[str, str]:
    """Return a locked list's packages and their versions."""
    lines = [line.partition(";")[0].strip() for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)
