"""Every way to reach Lean under one contract: on the scripted Lean always, on real ones wherever they are found."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import ProofChecker, read_axioms
from flywheel.verifiers.lean_file import Fence, FileBackend, read_json, read_text
from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError, Theorem
from flywheel.verifiers.lean_toolchain import Settings, Toolchain, find_lean, find_repl, search_path
from tests.verifiers.lean_backend_contract import STANDARD, LeanBackendContract
from tests.verifiers.lean_helpers import file_backend, real_repl, repl_backend, write_lean, write_table

ROOT = Path(__file__).resolve().parents[2]


class TestScriptedRepl(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeanBackend]:
        made = repl_backend(write_table(tmp_path_factory.mktemp("lean")), sandbox="bubblewrap")
        yield made
        made.close()


class TestScriptedFile(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tmp_path_factory: pytest.TempPathFactory) -> LeanBackend:
        return file_backend(write_table(tmp_path_factory.mktemp("lean")), sandbox="bubblewrap")


class TestScriptedOldFile(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tmp_path_factory: pytest.TempPathFactory) -> LeanBackend:
        return file_backend(write_table(tmp_path_factory.mktemp("lean")), role="old-lean")


class TestScriptedOldestFile(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tmp_path_factory: pytest.TempPathFactory) -> LeanBackend:
        return file_backend(write_table(tmp_path_factory.mktemp("lean")), role="oldest-lean")


@pytest.mark.lean
class TestRealFile(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> LeanBackend:
        return FileBackend()


@pytest.mark.lean
class TestRealRepl(LeanBackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeanBackend]:
        made = real_repl(tmp_path_factory.mktemp("repl"))
        yield made
        made.close()


@pytest.mark.lean
def test_a_pool_of_real_processes_is_kept_warm_and_recycled(tmp_path: Path) -> None:
    backend = real_repl(tmp_path, Settings(workers=2, cpu_s=0.75), max_requests=20)
    checker = ProofChecker(backend)
    busy = "by\n" + "  have h : 1 + 1 = 2 := rfl\n" * 3000 + "  rfl"  # right, and too much work
    answers = {"rfl": True, "by rfl": True, "(rfl : 1 = 3)": False, "by": False, busy: False, "by\n  exact rfl": True}
    theorem = Theorem(header="open Nat", statement="theorem target : 1 + 1 = 2")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda answer: checker.check(theorem, answer, STANDARD), [*answers] * 4))
    backend.close()
    assert [finding.passed for finding in found] == [*answers.values()] * 4
    assert {finding.checks[-1].name for finding in found[4::6]} == {"limit"}
    assert backend.pool.num_started > 4


# ---------------------------------------------------------------- finding Lean


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Lean."""
    for name in ("LEAN", "LEAN_REPL", "ELAN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_machine_without_lean_is_told_how_to_get_it(bare: Path) -> None:
    with pytest.raises(LeanMissingError, match="elan-init"):
        find_lean()
    with pytest.raises(LeanMissingError, match="LEAN_REPL"):
        find_repl()
    with pytest.raises(LeanMissingError, match="elan-init"):
        FileBackend().elaborate("", ["example : True := trivial"])


def test_lean_is_found_by_name_path_and_elan(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_lean(write_table(bare))
    monkeypatch.setenv("LEAN", str(program))
    assert find_lean() == Toolchain(lean=program, sysroot=program.parent.parent, version="4.9.0")
    monkeypatch.setenv("LEAN", str(program.parent.parent))
    assert find_lean().lean == program
    monkeypatch.setenv("LEAN", str(bare / "nothing"))
    with pytest.raises(LeanMissingError, match="LEAN is"):
        find_lean()
    monkeypatch.delenv("LEAN")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_lean().lean == program
    monkeypatch.setenv("PATH", str(bare))
    elan = bare / ".elan/toolchains/leanprover--lean4---v4.9.0"
    elan.parent.mkdir(parents=True)
    elan.symlink_to(program.parent.parent)
    assert find_lean().lean == program


def test_elans_stand_in_is_looked_behind(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_lean(write_table(bare))
    folder = bare / "elan-bin"
    folder.mkdir()
    for name, text in (("lean", "#!/bin/sh\nexit 1\n"), ("elan", f'#!/bin/sh\n[ "$1 $2" = "which lean" ] && echo {program}\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("LEAN", str(folder / "lean"))
    assert find_lean().lean == program


def test_what_is_not_lean_4_is_said(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = bare / "lean"
    program.write_text("#!/bin/sh\necho 'Lean (version 3.51.1, commit abc, Release)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("LEAN", str(program))
    with pytest.raises(LeanMissingError, match="expected Lean 4"):
        find_lean()


def test_a_projects_libraries_are_found(tmp_path: Path) -> None:
    lean = Toolchain(lean=tmp_path / "bin/lean", sysroot=tmp_path, version="4.9.0")
    with pytest.raises(VerifierError, match="no lakefile"):
        search_path(lean, str(tmp_path / "project"))
    project = tmp_path / "project"
    (project / ".lake/packages/mathlib/.lake/build/lib").mkdir(parents=True)
    (project / ".lake/build/lib/lean").mkdir(parents=True)
    (project / "lakefile.toml").touch()
    assert search_path(lean, str(project)) == [
        project / ".lake/build/lib/lean",
        project / ".lake/packages/mathlib/.lake/build/lib",
        tmp_path / "lib/lean",
    ]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_LEAN_WORKERS", "7")
    assert Settings.read().workers == 7
    monkeypatch.setenv("FLYWHEEL_LEAN_CPU_S", "soon")
    with pytest.raises(VerifierError, match="FLYWHEEL_LEAN_CPU_S"):
        Settings.read()


# ---------------------------------------------------------------- installing Lean

# Stand-ins for the programs that the installer calls: they note what they are asked. Their git has no tag v9.9.9.
STAND_INS = {
    "elan": 'case "$1" in run) echo "$HOME/toolchain";; *) echo "elan $*" >> "$HOME/asked";; esac',
    "git": 'echo "git $*" >> "$HOME/asked"; case "$1 $5" in clone*) mkdir -p "$4";; *v9.9.9) exit 1;; esac',
    "lake": 'echo "lake $* in ${PWD##*/}" >> "$HOME/asked"',
}


def installed(home: Path, **env: str) -> tuple[int, list[str]]:
    """Run the installer with stand-ins; return its exit status and what was built."""
    programs = home / ".elan/bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (home / "asked").unlink(missing_ok=True)
    ran = subprocess.run(["sh", str(ROOT / "tools/install_lean.sh")], env={"HOME": str(home), "PATH": "/usr/bin:/bin", **env}, check=False)
    return ran.returncode, [line.rpartition(" ")[2] for line in (home / "asked").read_text().splitlines() if line.startswith("lake build")]


def test_what_is_installed_matches_one_release(tmp_path: Path) -> None:
    assert installed(tmp_path) == (0, ["repl", "lean4checker"])
    (tag,) = {line.split()[-1] for line in (tmp_path / "asked").read_text().splitlines() if "checkout" in line}
    assert f"ARG LEAN_VERSION={tag}\n" in (ROOT / "docker/lean/Dockerfile").read_text()
    checker = tmp_path / "toolchain/bin/leanchecker"
    checker.parent.mkdir(parents=True)
    checker.touch(0o755)
    assert installed(tmp_path) == (0, ["repl"])
    assert installed(tmp_path, LEAN_WITH_COMPARATOR="1") == (0, ["repl", "comparator", "lean4export"])
    assert installed(tmp_path, LEAN_VERSION="v9.9.9") == (1, [])


# ---------------------------------------------------------------- reading Lean


def test_text_messages_begin_with_the_files_own_name_only() -> None:
    first = "/f/F1.lean:2:0: error: first\nof two lines\n/f/F2.lean:9:0: error: not one\n"
    output = first + "/f/F1.lean:3:4: info of old Lean\n/f/F1.lean:4:0: warning: w\n"
    got = read_text(output, "/f/F1.lean")
    assert [(m.severity, m.line, m.column) for m in got] == [("error", 2, 0), ("info", 3, 4), ("warning", 4, 0)]
    assert got[0].text == "first\nof two lines\n/f/F2.lean:9:0: error: not one"
    assert read_text("", "/f/F1.lean") == []
    assert read_text("panic\n", "/f/F1.lean")[0].severity == "error"


def test_what_has_no_place_is_about_what_lies_between_two_fences() -> None:
    fences = {3: Fence(name="fence1", about=5), 6: Fence(name="fence2", about=7), 8: Fence(name="fence3", about=9)}
    complaint = "/f/F1.lean:{}:7: error: unknown identifier 'fence{}'\n"
    output = (
        complaint.format(3, 1)
        + "x : Nat\n  → Nat\n/f/F1.lean:4:0: warning: w\ny : Type\n"
        + complaint.format(6, 2)
        + complaint.format(8, 3)
    )
    got = read_text(output, "/f/F1.lean", fences)
    assert [(m.severity, m.line, m.text) for m in got] == [("info", 5, "x : Nat\n  → Nat"), ("warning", 4, "w\ny : Type")]
    for forged in (complaint.format(3, 2), complaint.format(4, 1), "/f/F1.lean:3:7: warning: fence1\n", "unknown identifier 'fence1'\n"):
        said = read_text(output.replace(complaint.format(3, 1), forged), "/f/F1.lean", fences)
        assert ("error", 3, "Lean did not come here") in [(m.severity, m.line, m.text) for m in said], forged


def test_json_messages_of_another_file_are_errors() -> None:
    good = '{"severity":"info","pos":{"line":3,"column":1},"data":"x","fileName":"/f"}'
    assert [(m.severity, m.line) for m in read_json(good + "\n", "/f")] == [("info", 3)]
    for bad in (good.replace("/f", "/g"), "noise", '{"severity":"info"}', "[]"):
        assert [(m.severity, m.line) for m in read_json(bad + "\n", "/f")] == [("error", 1)]


def test_axioms_are_read_from_both_forms() -> None:
    assert read_axioms("'Fw1.a' does not depend on any axioms", "Fw1.a") == ()
    assert read_axioms("'X.Fw1.a' depends on axioms: [propext,\n Classical.choice,\n Quot.sound]", "Fw1.a") == (
        "propext",
        "Classical.choice",
        "Quot.sound",
    )


@pytest.mark.parametrize(
    "text",
    [
        "'Fw2.a' does not depend on any axioms",
        "'Fw1.a' does not depend on any axioms, really",
        "'xFw1.a' does not depend on any axioms",
        "'Fw1.a' depends on axioms: []",
        "'Fw1.a' depends on axioms: [propext",
        "",
    ],
)
def test_what_is_no_list_of_axioms_is_no_verdict(text: str) -> None:
    with pytest.raises(VerifierError):
        read_axioms(text, "Fw1.a")
