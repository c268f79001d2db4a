import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flywheel import preflight
from flywheel.config import Recipe
from flywheel.preflight import check

TOY = "tests.toy_sums"


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without GPU, key, hub cache and vLLM; the folders of the run are in `tmp_path`."""
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr(preflight, "_DEVICES", devices)
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in (
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "NETRC",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()


def problems(environments: dict[str, Any] | None = None, **sections: Any) -> list[str]:
    named = environments if environments is not None else {"sums": {"use": f"{TOY}:SumsEnv"}}
    return check(Recipe.model_validate({"environments": named, **sections}))


def program(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_nothing_is_wrong_with_a_plain_recipe() -> None:
    assert problems() == []


def test_everything_is_said_at_once() -> None:
    found = problems(
        {"sums": {"use": f"{TOY}:SumsEnv", "families": {"smal": {}}}, "coed": {}},
        engine={"kind": "vlm"},
        trainer={"device": "cuda"},
        policy={"model": "./nowhere"},
        monitor={"wandb": "online"},
    )
    assert len(found) == 6


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; import flywheel.preflight as p; from flywheel.recipe import load_recipe; p.check(load_recipe('quickstart')); "
    code += "print([m for m in ('torch', 'vllm', 'wandb', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        ({"coed": {}}, "environments.coed: unknown environment 'coed': did you mean 'code'?"),
        ({"x": {"use": f"{TOY}:SumsVerifier", "solved_threshold": 1}}, f"'{TOY}:SumsVerifier' is no environment: expected a gymnasium.Env"),
        ({"x": {"use": "no_such_module:Env"}}, "can't import 'no_such_module'"),
        ({"x": {"use": f"{TOY}:Nothing"}}, "has no 'Nothing'"),
        ({"x": {"use": "tests.toy_exits:Env"}}, "raised SystemExit: nobody home; mend its module"),
        (
            {"x": {"use": f"{TOY}:SumsEnv", "verifier": "chemistr"}},
            "environments.x.verifier: unknown verifier 'chemistr': did you mean 'chemistry'?",
        ),
        ({"x": {"use": f"{TOY}:TrustingEnv"}}, "say environments.x.solved_threshold"),
        ({"x": {"use": f"{TOY}:SilentEnv", "solved_threshold": 1}}, "SilentEnv has none; define demonstrate(task)"),
        ({"x": {"use": f"{TOY}:BrokenEnv"}}, "generators() raised RuntimeError: no generators today"),
        ({"x": {"use": f"{TOY}:SumsEnv", "families": {"smal": {}}}}, "environments.x.families: no family 'smal': did you mean 'small'?"),
        ({"x": {"use": f"{TOY}:SumsEnv", "families": {"small": {"weight": 0}}}}, "every weight is 0"),
        ({"x": {"use": f"{TOY}:TrustingEnv", "solved_threshold": 1, "families": {"small": {}}}}, "has no families"),
        ({"x": {"use": f"{TOY}:SumsEnv", "families": {"small": {"knobs": {"sise": 2}}}}}, "no such knob: did you mean 'size'?"),
        (
            {"x": {"use": f"{TOY}:SumsEnv", "families": {"small": {"knobs": {"size": [0, 4]}}}}},
            "environments.x.families.small.knobs.size: got [0, 4], expected a range inside [1, 9] (largest term)",
        ),
        ({"x": {"use": f"{TOY}:SumsEnv", "families": {"small": {"knobs": {"size": [3, 10]}}}}}, "got [3, 10]"),
        ({"x": {"use": f"{TOY}:SumsEnv", "families": {"small": {"knobs": {"size": [4, 2]}}}}}, "expected the lower end first: [2, 4]"),
        (
            {"x": {"use": f"{TOY}:SumsEnv", "verifier": "json:JSONDecoder"}},
            "is no verifier: expected a class with verify and close",
        ),
        ({"x": {"use": f"{TOY}:SumsEnv", "verifier_kwargs": {"partial_credit": "no"}}}, "partial_credit is 'no', expected true or false"),
        ({"x": {"use": f"{TOY}:SumsEnv", "kwargs": {"depth": 1}}}, "kwargs.depth: the environment takes no such argument: it takes none"),
        ({"x": {"use": "tests.test_plugged_environments:OldEnv"}}, "expected reset(self, *, seed=None, options=None)"),
        ({"x": {"use": f"{TOY}:SumsEnv", "dataset": {"path": "./none"}}}, "environments.x.dataset.path: no file or folder './none'"),
        ({"x": {"use": f"{TOY}:SumsEnv", "dataset": {"path": "none.parquet"}}}, "no file or folder 'none.parquet'"),
        ({"x": {"use": f"{TOY}:SumsEnv", "tasks_file": "none.jsonl"}}, "environments.x.tasks_file: none.jsonl can't be read"),
        ({"x": {"use": f"{TOY}:SumsEnv", "tasks_file": __file__, "tasks_format": "mbpp"}}, "its files hold task records"),
        ({"x": {"use": f"{TOY}:TrustingEnv", "solved_threshold": 1, "verifier_kwargs": {"a": 1}}}, "no verifier to pass them to"),
        ({"x": {"use": f"{TOY}:SumsEnv", "solved_threshold": 1}}, "environments.x.solved_threshold: it is for an environment without"),
        (
            {name: {"use": f"{TOY}:TrustingEnv", "solved_threshold": at} for name, at in (("x", 1), ("y", 2))},
            "is already used by environments.x with another class, verifier, solved_threshold or kwargs",
        ),
    ],
)
def test_names(environments: dict[str, Any], expected: str) -> None:
    (problem,) = problems(environments)
    assert expected in problem


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"tasks_format": "mbpp"}, "environments.code.tasks_format is 'mbpp', and there is no environments.code.tasks_file"),
        (
            {"dataset": {"path": ".", "prompt": "{q}"}, "tasks_format": "mbpp"},
            "tasks_format reads whole rows, and environments.code.dataset",
        ),
        ({"tasks_file": __file__, "tasks_format": "mbp"}, "tasks_format: no format 'mbp': did you mean 'mbpp'?"),
        (
            {"verifier_kwargs": {"partial_credits": True}},
            "verifier_kwargs.partial_credits: the verifier takes no such argument: did you mean",
        ),
    ],
)
def test_formats_and_arguments_are_those_that_there_are(section: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in problems({"code": section}))


@pytest.mark.parametrize(
    "section",
    [
        {"use": f"{TOY}:TrustingEnv", "solved_threshold": 1},
        {"use": f"{TOY}:TrustingEnv", "verifier": "chemistry"},
        {"use": f"{TOY}:SumsEnv", "families": {"small": {"knobs": {"size": [1, 9]}}}},
    ],
)
def test_names_that_are_right(section: dict[str, Any]) -> None:
    assert problems({"x": section}) == []


def test_a_model_that_knows_how_to_answer_needs_no_demonstrations(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert problems({"x": {"use": f"{TOY}:SilentEnv", "solved_threshold": 1}}, policy={"model": str(tmp_path)}) == []


@pytest.mark.parametrize(
    ("env", "line", "expected"),
    [
        ("code", "{bad", "tasks.jsonl:2: Expecting property name"),
        ("code", '{"prompt": "x"}', "tasks.jsonl:2: task record: missing fields ['payload']"),
        ("code", '{"prompt": "x", "payload": {}}', "tasks.jsonl:2: code payload: entry_point is missing"),
        ("lean", '{"prompt": "x", "payload": {"statment": ""}}', "unknown field 'statment'; did you mean 'statement'?"),
        ("chemistry", '{"prompt": "x", "payload": {"constraints": [{"kind": "formla"}]}}', "has no known kind; known: "),
    ],
)
def test_a_tasks_file_is_read_before_anything_starts(tmp_path: Path, env: str, line: str, expected: str) -> None:
    (tmp_path / "tasks.jsonl").write_text(f"\n{line}\n")
    (tmp_path / "config.json").touch()
    found = problems({env: {"tasks_file": "tasks.jsonl"}}, policy={"model": str(tmp_path)}, sandbox={"backend": "unsafe"})
    assert any(problem.startswith(f"environments.{env}.tasks_file: ") and expected in problem for problem in found), found


def test_task_records_show_a_tiny_model_nothing(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "x", "payload": {}}\n')
    section = {"use": f"{TOY}:SumsEnv", "tasks_file": "tasks.jsonl"}
    (problem,) = problems({"x": section})
    assert "1 of 1 task records carry none (the one with id" in problem
    assert "set cold_start.steps = 0" in problem
    (tmp_path / "config.json").touch()
    (problem,) = problems({"x": {**section, "families": {"small": {}}}}, policy={"model": str(tmp_path)})
    assert "environments.x.families: they are the generators'" in problem


def test_lessons_that_could_never_come_are_said() -> None:
    (problem,) = problems(learning={"hindsight_share": 0.1})
    assert "no environment of this run (sums) says how its failures are relabelled" in problem
    asked: dict[str, Any] = {"learning": {"retry_size": 4, "retry_share": 0.25}, "rollout": {"groups_per_step": 3}}
    (problem,) = problems(**asked)
    assert "learning.retry_share 0.25 of rollout.groups_per_step 3 is less than one group" in problem
    assert problems(**{**asked, "rollout": {"groups_per_step": 4}}) == []


def test_an_empty_tasks_file(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("\n \n")
    (problem,) = problems({"x": {"use": f"{TOY}:SumsEnv", "tasks_file": "tasks.jsonl"}})
    assert "tasks.jsonl is empty" in problem


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("vlm", "unknown engine 'vlm': did you mean 'vllm'?"),
        ("no_such_module:Engine", "can't find the module"),
        ("vllm", "engine.kind is 'vllm', which is not installed"),
    ],
)
def test_engines(kind: str, expected: str) -> None:
    (problem,) = problems(engine={"kind": kind})
    assert expected in problem


@pytest.mark.parametrize("kind", ["auto", "transformers", f"{TOY}:Engine"])
def test_engines_that_are_right(kind: str) -> None:
    assert problems(engine={"kind": kind}) == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"policy": {"tool_format": "hermse"}}, "policy.tool_format: no format 'hermse': did you mean 'hermes'?"),
        ({"run": {"stop_when_solved": "smal"}}, "run.stop_when_solved: no family 'smal': did you mean 'small'?"),
        ({"tasks": {"decontaminate": ["none.jsonl"]}}, "tasks.decontaminate: none.jsonl can't be read"),
    ],
)
def test_other_names(sections: dict[str, Any], expected: str) -> None:
    (problem,) = problems(**sections)
    assert expected in problem


def test_a_family_that_only_tasks_name_may_end_a_run() -> None:
    assert problems({"x": {"use": f"{TOY}:TrustingEnv", "solved_threshold": 1}}, run={"stop_when_solved": "any"}) == []


def test_a_server_that_runs_already_needs_an_address() -> None:
    (problem,) = problems(engine={"kind": "vllm", "url": "localhost:8000"})
    assert "engine.url: got 'localhost:8000'" in problem
    assert problems(engine={"kind": "vllm", "url": "http://localhost:8000"}) == []


# ---------------------------------------------------------------- sandbox

SANDBOXED = {"x": {"use": f"{TOY}:SandboxedEnv"}}


def test_no_bubblewrap() -> None:
    (problem,) = problems(SANDBOXED)
    assert "bubblewrap is not installed" in problem
    assert "apt-get install bubblewrap" in problem


def test_bubblewrap_without_namespaces_is_another_problem(tmp_path: Path) -> None:
    program(tmp_path, "bwrap", "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    (problem,) = problems(SANDBOXED)
    assert "does not let it make namespaces (bwrap: No permissions to create a new namespace)" in problem
    assert "not installed" not in problem


def test_bubblewrap_that_can_not_be_run(tmp_path: Path) -> None:
    program(tmp_path, "bwrap", "")
    (tmp_path / "bin/bwrap").write_bytes(b"\x7fELF broken")
    (problem,) = problems(SANDBOXED)
    assert "bubblewrap is installed, but broken" in problem


def test_bubblewrap_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    monkeypatch.chdir(tmp_path)
    assert problems(SANDBOXED) == []


def test_the_code_environment_is_known_to_use_sandboxes_and_chemistry_not() -> None:
    assert any("bubblewrap" in problem for problem in problems({"code": {}}))
    assert problems({"chemistry": {}}) == []


def test_unsafe_is_only_ever_asked_for() -> None:
    assert problems(SANDBOXED, sandbox={"backend": "unsafe"}) == []
    (problem,) = problems(SANDBOXED, sandbox={"backend": "bublewrap"})
    assert "unknown backend 'bublewrap': did you mean 'bubblewrap'?" in problem


# ---------------------------------------------------------------- GPUs

GPU_RECIPES = [
    ({"trainer": {"device": "cuda"}}, 1),
    ({"trainer": {"device": "cuda", "num_processes": 4}}, 4),
    ({"placement": {"tensor_parallel": 2}}, 2),
    ({"placement": {"tensor_parallel": 2, "data_parallel": 2}}, 4),
    ({"placement": {"trainer_gpus": [2]}}, 3),
    ({"trainer": {"sharding": "fsdp2", "num_processes": 2}}, 2),
    ({"engine": {"weight_sync": "ipc"}}, 1),
    ({"engine": {"weight_sync": "nccl"}}, 2),
]


@pytest.mark.parametrize(("sections", "least"), GPU_RECIPES)
def test_gpus(sections: dict[str, Any], least: int, tmp_path: Path) -> None:
    (problem,) = problems(**sections)
    assert "needs a GPU, and this machine shows none" in problem
    (tmp_path / "dev/nvidiactl").touch()
    for number in range(least):
        if number:
            (problem,) = problems(**sections)
            assert f"needs {least} GPUs, and this machine shows {number}" in problem
        (tmp_path / f"dev/nvidia{number}").touch()
    assert problems(**sections) == []


def test_an_engine_that_sleeps_is_vllm_on_a_gpu() -> None:
    found = problems(placement={"sleep_level": 2}, rollout={"max_staleness": 0})
    assert [word in problem for word, problem in zip(("not installed", "needs a GPU"), found, strict=True)] == [True, True]


def test_the_gpus_of_another_machine_are_not_looked_for_here() -> None:
    recipe = Recipe.model_validate({"environments": {"sums": {"use": f"{TOY}:SumsEnv"}}, "placement": {"data_parallel": 4}})
    assert "--dry-run --placement.gpu_memory_gb" in check(recipe)[0]
    assert check(recipe, gpus_elsewhere=True) == []


def test_a_machine_whose_gpus_can_not_be_counted_is_believed(tmp_path: Path) -> None:
    program(tmp_path, "nvidia-smi", "")
    assert problems(trainer={"device": "cuda", "num_processes": 4}) == []


# ---------------------------------------------------------------- model


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "file").touch()
    assert "folder without config.json" in problems(policy={"model": "model"})[0]
    assert "is a file" in problems(policy={"model": "file"})[0]
    assert "no folder './nowhere'" in problems(policy={"model": "./nowhere"})[0]
    assert "no folder 'a/b/c'" in problems(policy={"model": "a/b/c"})[0]
    (tmp_path / "model/config.json").touch()
    assert problems(policy={"model": "model"}) == []
    assert problems(policy={"model": "org/some-model"}) == []

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (problem,) = problems(policy={"model": "org/some-model"})
    assert "not in the hub cache" in problem
    snapshot = tmp_path / ".cache/huggingface/hub/models--org--some-model/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert problems(policy={"model": "org/some-model"}) == []


# ---------------------------------------------------------------- folders, disk, W&B


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (problem,) = problems(run={"dir": str(tmp_path / "file/runs")})
    assert "run.dir: " in problem
    assert "is not a folder" in problem
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    assert "can't be written; give a folder of your own (--run.dir PATH)" in problems()[0]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int = 10**12
        used: int = 10**12
        free: int = 100 * 2**20

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage())
    assert any("has 100 MiB free, expected at least 1024" in problem for problem in problems())


def test_wandb_online_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: ModuleSpec(name, None))
    (problem,) = problems(monitor={"wandb": "online"})
    assert "there is no key" in problem
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert problems(monitor={"wandb": "online"}) == []
