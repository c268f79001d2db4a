"""The shape of the source tree: import direction, where the heavy libraries are allowed, names, file sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from flywheel import registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flywheel"
PLUGGED = {"envs", "verifiers", "recipes"}

# A unit is a module or a folder right under `flywheel`. It may import units of the layers above its own in this list,
# and of its own layer those that BESIDE names.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "types errors statistics sections",
        "contracts background canonical learning_config",
        "config registry records",
        "recipe tool_env model_shape",
        "store sandbox inference run_folder",
        "monitor",
        "envs verifiers recipes",
        "judge tasks",
        "rollout verify routes",
        "hindsight router serving",
        "trainer export testing",
        "recipe_names memory_plan prepare begun evaluation batches service",
        "preflight distill",
        "supervisor",
        "pipeline",
        "train eval view audit write",
        "cli",
        "__main__",
    )
)
BESIDE = {
    "envs": {"verifiers"},
    "verifiers": {"envs"},
    "tasks": {"judge"},
    "hindsight": {"router"},
    "service": {"batches", "evaluation"},
}
# The only files that may import a heavy library, at module level or anywhere inside.
ONLY_IN = {
    "torch": ("flywheel/trainer/*.py", "flywheel/inference/transformers_engine.py"),
    "trl": ("flywheel/trainer/*.py",),
    "vllm": ("flywheel/inference/vllm*.py",),
    "wandb": ("flywheel/monitor/wandb*.py",),
    "pytest": ("flywheel/testing/*.py",),
}
MAX_LINES = 500
# Run as a program or loaded by another library, hence never imported.
NOT_IMPORTED = {"lean-dojo", "mypy", "ruff"}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "lean_dojo": "lean-dojo",
    "yaml": "pyyaml",
    "markdown_it": "markdown-it-py",
}
OPTIONAL = {"docker", "lean-dojo", "mistral_common", "pytest", "reasoning_gym", "vllm"}


def sources(*folders: str) -> list[Path]:
    """Return the Python files below folders of the repository, by their path inside it."""
    return sorted(
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    )


def logical(path: Path) -> Path:
    """Return the path of a first-party file as the package sees it (``envs/x.py`` is ``flywheel/envs/x.py``)."""
    return Path("flywheel") / path if path.parts[0] in PLUGGED else path


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, by absolute name, with the line; `from flywheel import x` names flywheel.x."""
    package = logical(path).parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                (*package[: len(package) + 1 - node.level], *filter(None, [node.module])) if node.level else [node.module or ""]
            )
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def unit(module: str) -> str | None:
    """Return the unit of a dotted first-party module, None for other modules and for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "flywheel" and len(parts) > 1 and is_unit(parts[1]) else None


def is_unit(name: str) -> bool:
    """Whether flywheel has a module or folder of that name."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def layer_of(name: str) -> int:
    """Return a unit's place in LAYERS."""
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


CODE = sources("flywheel", *PLUGGED)


def test_every_unit_has_a_layer() -> None:
    units = {logical(path).parts[1].removesuffix(".py") for path in CODE} - {"__init__", "__main__"}
    assert sorted(units - set().union(*LAYERS)) == [], "give new modules their place in LAYERS (and in DESIGN's import direction)"


def test_imports_point_one_way() -> None:
    wrong = set()
    for path in CODE:
        mine = unit(".".join(logical(path).with_suffix("").parts))
        for module, line in imported(path):
            other = unit(module)
            if mine is None or other is None or other == mine or other in BESIDE.get(mine, ()):
                continue
            if layer_of(other) >= layer_of(mine):
                wrong.add(f"{path}:{line} imports {other}, which is not below {mine}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_import_cycle_between_units() -> None:
    below: dict[str, set[str]] = {}
    for path in CODE:
        mine = unit(".".join(logical(path).with_suffix("").parts))
        if mine is not None and mine not in {"envs", "verifiers"}:
            below.setdefault(mine, set()).update(u for module, _ in imported(path) if (u := unit(module)) and u != mine)
    pending = dict(below)
    while free := [name for name, others in pending.items() if not others & pending.keys()]:
        for name in free:
            del pending[name]
    assert sorted(pending) == []


def test_core_names_no_environment_verifier_or_recipe() -> None:
    """The core asks the registry: it neither imports nor spells a module below the pluggable folders."""
    wrong = []
    named = re.compile(rf"^flywheel\.({'|'.join(sorted(PLUGGED))})\.\w")
    for path in sources("flywheel"):
        wrong += [f"{path}:{line} imports {module}" for module, line in imported(path) if named.match(module)]
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and named.match(node.value):
                wrong.append(f"{path}:{node.lineno} spells {node.value!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_heavy_libraries_stay_where_they_belong(library: str) -> None:
    wrong = {
        f"{path}:{line}"
        for path in CODE
        for module, line in imported(path)
        if module.split(".")[0] == library and not any(logical(path).match(allowed) for allowed in ONLY_IN[library])
    }
    assert not wrong, "\n".join(sorted(wrong))


def third_party(paths: list[Path]) -> set[str]:
    """Return the distributions that files import from, other than Python's own and ours."""
    ours = {"flywheel", "tests", "benchmarks", "tools", *PLUGGED}
    modules = {module.split(".")[0] for path in paths for module, _ in imported(path)} - sys.stdlib_module_names - ours
    return {DISTRIBUTIONS.get(module, module) for module in modules}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    runs = {Requirement(line).name for line in project["dependencies"]}
    dev = {Requirement(line).name for line in project["optional-dependencies"]["dev"]} - NOT_IMPORTED
    # What is in extras of its own is imported where it is used, and may be missing.
    used = third_party(CODE) - OPTIONAL
    assert not used - runs, f"imported and not in pyproject's dependencies: {sorted(used - runs)}"
    assert not runs - used, f"in pyproject's dependencies and imported nowhere: {sorted(runs - used)}"
    others = third_party(sources("tests", "benchmarks", "tools")) - (OPTIONAL - dev)
    assert others - runs == dev, f"tests and tools import {sorted(others - runs)}, pyproject's extra dev has {sorted(dev)}"


def test_first_party_code_imports_the_package_and_not_the_folders() -> None:
    everything = [*CODE, *sources("tests", "benchmarks", "tools")]
    bare = [f"{path}:{line}" for path in everything for module, line in imported(path) if module.split(".")[0] in PLUGGED]
    assert bare == []


@pytest.mark.parametrize("folder", sorted(PLUGGED))
def test_a_bare_import_of_a_linked_folder_is_refused(folder: str) -> None:
    ran = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert f"flywheel.{folder}" in ran.stderr


@pytest.mark.parametrize("folder", sorted(PLUGGED))
def test_linked_folders_are_relative_links(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{folder}"


def test_files_are_short_and_named_for_what_they_do() -> None:
    paths = [*CODE, *sources("tests", "benchmarks", "tools")]
    lengths = {str(path): len((ROOT / path).read_text("utf-8").splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}
    assert [path for path in lengths if Path(path).name == "utils.py"] == []
    assert not (ROOT / "docker" / "__init__.py").exists(), "it would shadow the docker SDK"


@pytest.mark.parametrize("kind", get_args(registry.Kind))
def test_every_registered_name_resolves(kind: registry.Kind) -> None:
    table = registry.names(kind)
    assert table
    for name, target in table.items():
        assert callable(registry.resolve(kind, name)), f"{kind}: {name} stands for {target}"


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    look = f"import sys, flywheel.cli, flywheel.train; print(*sorted({set(ONLY_IN)!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
