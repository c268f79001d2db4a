"""The ``repl`` backend: Lean through a pool of leanprover-community/repl processes (any since Lean 4.9), each in a sandbox.

Not built on lean-interact: it starts the REPL itself, as a bare process of this user with the network at hand, and downloads and builds
it at run time; its pool has no say on whose fault a crash was. What it serves well, speaking the protocol, is `ReplProcess.ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import Place
from flywheel.verifiers.lean_gate import read_statement
from flywheel.verifiers.lean_pool import ReplPool
from flywheel.verifiers.lean_process import ReplProcess, Watch, read_messages
from flywheel.verifiers.lean_protocol import BrokeError, Elaborated, Message, ProofState, Step, Theorem, header_error
from flywheel.verifiers.lean_toolchain import Settings, built_for, environment, find_lean, find_repl, shown

CONTROL = (("example : 1 + 1 = 2 := rfl", False), ("example : 1 + 1 = 3 := rfl", True))  # what a sound Lean accepts and refuses
_IDLE_S = 120.0


class ReplBackend:
    """A `LeanBackend` on REPL processes. Starts nothing until it is asked.

    Args:
        settings: Limits and the number of processes; from the environment by default.
        argv: The REPL's command line, where it is not to be looked for.
        show: Further folders that the REPL may read.
        sandbox: The sandbox's backend.
        pool: Further arguments of the pool.
    """

    name = "repl"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        argv: Sequence[str] | None = None,
        show: Sequence[Path] = (),
        sandbox: str = "bubblewrap",
        **pool: Any,
    ) -> None:
        self.settings = settings or Settings.read()
        self._argv, self._show, self._sandbox = argv, list(show), sandbox
        memory = self.settings.memory_mb << 20
        self._watch = Watch(cpu_s=self.settings.cpu_s, idle_s=_IDLE_S, wall_s=20 * self.settings.cpu_s, memory_bytes=memory)
        self._header_watch = Watch(cpu_s=self.settings.header_cpu_s, idle_s=2 * _IDLE_S, wall_s=3600.0, memory_bytes=memory)
        self.pool = ReplPool(self._start, **{"capacity": self.settings.workers, "recycle_bytes": memory // 2, **pool})

    @property
    def version(self) -> str:
        """Lean's version and the REPL's place."""
        return f"repl, Lean {find_lean().version}" if self._argv is None else f"repl, {Path(self._argv[0]).name}"

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands, each on the environment that the one before it left; see `LeanBackend`."""
        return self._judged(project, header, lambda process: self._elaborate(process, header, commands))

    def open_goal(self, theorem: Theorem) -> ProofState:
        """Return the state before the first tactic; see `LeanBackend`."""

        def work(process: ReplProcess) -> ProofState:
            state, _ = self._opened(process, theorem)
            return state

        try:
            return self.pool.run(theorem.project, theorem.header, work)
        except BrokeError as error:
            raise ValueError(f"lean payload: the statement breaks Lean ({error})") from None

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        """Run one tactic in the process that holds the state, or in another, the state's tactics first; see `LeanBackend`."""
        theorem = state.theorem
        serial, number = state.handle if state.handle is not None else (0, 0)  # no process has the serial 0
        try:
            if self.pool.alive(serial):
                try:
                    with self.pool.lend(theorem.project, theorem.header, serial=serial) as process:
                        if process.serial == serial:
                            return self._tactic(process, state, number, tactic)
                except BrokeError as error:
                    if error.own:
                        raise
            return self.pool.run(theorem.project, theorem.header, lambda process: self._replayed(process, state, tactic))
        except BrokeError as error:
            return Step(error=f"{error.cause}: the tactic {'reached a limit' if error.cause == 'limit' else 'broke Lean'}")

    def close(self) -> None:
        """End the processes."""
        self.pool.close()

    # ------------------------------------------------------------ processes

    def _start(self, project: str | None) -> ReplProcess:
        memory = (self.settings.memory_mb << 20) * 5 // 4
        if self._argv is not None:
            process = ReplProcess(self._argv, backend=self._sandbox, show=self._show, env={}, memory_bytes=memory)
        else:
            repl = find_repl(project)
            lean = find_lean(project or built_for(repl))
            folders = [*shown(lean, project, repl), *self._show]
            process = ReplProcess([str(repl)], backend=self._sandbox, show=folders, env=environment(lean, project), memory_bytes=memory)
        try:
            for command, refused in CONTROL:
                said = read_messages(process.ask({"cmd": command}, self._header_watch))
                if any(message.severity == "error" for message in said) != refused:
                    raise VerifierError(f"the Lean REPL misjudged its control probe {command!r}: {said!r}")
        except BaseException:
            process.kill()
            raise
        return process

    def _judged(self, project: str | None, header: str, work: Callable[[ReplProcess], Elaborated]) -> Elaborated:
        try:
            return self.pool.run(project, header, work)
        except BrokeError as error:
            return Elaborated(broke="limit" if error.cause == "limit" else "kills_grader", detail=error.detail)

    def _header(self, process: ReplProcess, header: str) -> int:
        """Return the environment of a header, loaded now if it is not warm.

        Raises:
            ValueError: the header is refused.
            VerifierError: it needs what is not there, or breaks the process.
        """
        if header not in process.headers:
            try:
                answer = process.ask({"cmd": header.strip() or "-- no header"}, self._header_watch)
            except BrokeError as error:
                raise VerifierError(f"loading a header broke the Lean process: {error}") from None
            said = read_messages(answer)
            if "env" not in answer:
                said = (*said, Message(severity="error", line=0, column=0, text=str(answer.get("message", answer))[:500]))
            refused = header_error(said)
            if refused is not None:
                process.usable = False
                raise refused
            process.headers[header] = answer["env"]
        process.headers.move_to_end(header)
        return process.headers[header]

    def _elaborate(self, process: ReplProcess, header: str, commands: Sequence[str]) -> Elaborated:
        env = self._header(process, header)
        messages, cpu_s = [], 0.0
        for command in commands:
            answer = process.ask({"cmd": command, "env": env}, self._watch)
            if "env" not in answer:
                process.usable = False
                raise BrokeError("kills_grader", f"it gave no environment: {str(answer)[:300]}")
            env = answer["env"]
            cpu_s += process.cpu_s
            messages.append(read_messages(answer))
        return Elaborated(messages=tuple(messages), cpu_s=cpu_s)

    # ------------------------------------------------------------ tactics

    def _opened(self, process: ReplProcess, theorem: Theorem) -> tuple[ProofState, int]:
        place = Place.fresh(read_statement(theorem.statement))
        env = self._header(process, theorem.header)
        answer = process.ask({"cmd": place.declaration("by sorry"), "env": env}, self._watch)
        error = next((message.text for message in read_messages(answer) if message.severity == "error"), None)
        sorries = answer.get("sorries")
        if error is not None or not isinstance(sorries, list) or len(sorries) != 1:
            raise ValueError(place.scrub(f"lean payload: the statement does not elaborate: {error or answer}")[:500])
        number = int(sorries[0]["proofState"])
        goals = (str(sorries[0]["goal"]),)
        return ProofState(theorem=theorem, goals=goals, handle=(process.serial, number)), number

    def _tactic(self, process: ReplProcess, state: ProofState, number: int, tactic: str) -> Step:
        answer = process.ask({"tactic": tactic, "proofState": number}, self._watch)
        if "proofState" not in answer:
            return Step(error=str(answer.get("message", answer)).removeprefix("Lean error:").strip())
        error = next((message.text for message in read_messages(answer) if message.severity == "error"), None)
        if error is not None or answer.get("sorries"):
            return Step(error=error or "the tactic leaves a sorry")
        goals = tuple(map(str, answer.get("goals", ["?"])))
        if not goals and answer.get("proofStatus", "Completed") != "Completed":
            return Step(error=str(answer["proofStatus"]))
        handle = (process.serial, int(answer["proofState"]))
        return Step(state=ProofState(theorem=state.theorem, tactics=(*state.tactics, tactic), goals=goals, handle=handle))

    def _replayed(self, process: ReplProcess, state: ProofState, tactic: str) -> Step:
        at, number = self._opened(process, state.theorem)
        for earlier in (*state.tactics, tactic):
            step = self._tactic(process, at, number, earlier)
            if step.state is None:
                return step
            at, number = step.state, step.state.handle[1]
        return Step(state=at)
