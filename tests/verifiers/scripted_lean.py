"""A Lean by a script: as a REPL or as a ``lean`` binary, it judges by a table what the real one would judge by mathematics.

``python scripted_lean.py TABLE.json repl`` serves the REPL's protocol; ``… TABLE.json lean [--json] FILE`` checks a file;
``… TABLE.json lake … FILE`` opens the prompt of LeanDojo. The roles ``old-lean`` and ``oldest-lean`` know no ``--json``. The table lists
``proofs``: a statement (from its name on), the answers that prove it, and the axioms that they rest on. A tactic block counts line by
line, so the first lines of one are a state with goals left. Words in an answer make it misbehave:

    DIE  HANG  SPIN  EAT  FLOOD  GARBLE  TWICE  LATE       at once
    FORGE                                                  print a whole faked conversation, then the truth
    DIE_ONCE HANG_ONCE                                     the first time a process of this table sees it

Standard library only: it runs in sandboxes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

DECLARATION = re.compile(r"theorem (?P<name>\S+) (?P<signature>.*?) :=\s+(?P<body>.*)", re.S)
SORRY = "declaration uses `sorry`"


class Script:
    """The table, and what has been declared."""

    def __init__(self, table: Path | None = None) -> None:
        self.table = table or Path("/nowhere")
        self.proofs: dict[str, list[str]] = {}
        self.axioms: dict[str, list[str]] = {}
        self.lemmas: list[str] = []
        self.header_s = 0.0
        if table is not None:
            data = json.loads(table.read_text("utf-8"))
            self.header_s = data.get("header_s", 0.0)
            for proof in data["proofs"]:
                self.learn(proof["statement"], proof["answers"], proof.get("axioms", []))

    def learn(self, statement: str, answers: list[str], axioms: list[str]) -> None:
        """Take answers for proofs of a statement (from its name on)."""
        statement = squeeze(statement)
        for answer in map(squeeze, answers):
            if answer not in self.proofs.setdefault(statement, []):
                self.proofs[statement].append(answer)
            self.axioms[statement + "\n" + answer] = axioms

    def elaborate(self, text: str, known: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
        """Return the messages on commands, what is declared after them, and the statements left open by ``sorry``."""
        known, messages, sorries = dict(known), [], []
        lines = text.split("\n")
        at, space = 0, ""

        def say(severity: str, line: int, data: str) -> None:
            messages.append({"severity": severity, "pos": {"line": line + 1, "column": 0}, "endPos": None, "data": data})

        while at < len(lines):
            line = lines[at]
            if line.startswith("namespace "):
                space = line.split()[1] + "."
            elif line.startswith("end "):
                space = ""
            elif line.startswith("theorem "):
                stop = next(
                    (i for i in range(at + 1, len(lines)) if lines[i].startswith(("end ", "theorem ", "#", "namespace "))), len(lines)
                )
                match = DECLARATION.match("\n".join(lines[at:stop]))
                assert match is not None
                name, body = match["name"], squeeze(match["body"])
                statement = squeeze(f"{name} {match['signature']}")
                if match["signature"].endswith("+"):
                    say("error", at, "unexpected token ':='; expected term")
                elif body in ("sorry", "by sorry"):
                    say("warning", at, SORRY)
                    sorries.append(statement)
                    known[space + name] = {"type": squeeze(match["signature"]), "axioms": ["sorryAx"]}
                else:
                    error = self.judge(statement, body)
                    by = next((i for i in range(at, stop) if lines[i].strip() == "by"), at + 2)
                    if error is None:
                        known[space + name] = {"type": squeeze(match["signature"]), "axioms": self.axioms[statement + "\n" + body]}
                    else:
                        say("error", by, error)
                at = stop - 1
            elif line.startswith("#check "):
                name = line.removeprefix("#check ").removeprefix("@")
                found = {"type": "Type"} if name == "Nat" else known.get(name)
                say("error", at, f"Unknown identifier `{name}`") if found is None else say(
                    "info", at, f"{name} : Type" if name == "Nat" else f"@{name} : {found['type']}"
                )
            elif line.startswith("#print axioms "):
                name = line.removeprefix("#print axioms ")
                if name not in known:
                    say("error", at, f"Unknown constant `{name}`")
                elif axioms := known[name]["axioms"]:
                    say("info", at, f"'{name}' depends on axioms: [{', '.join(axioms)}]")
                else:
                    say("info", at, f"'{name}' does not depend on any axioms")
            elif line.startswith("example : 1 + 1 = 3"):
                say("error", at, "type mismatch")
            elif line.startswith("#eval "):
                words = re.findall(r'"(\w+)"', lines[at + 1])
                for lemma in [lemma for lemma in self.lemmas if all(word in lemma.lower() for word in words)]:
                    say("info", at, lemma)
            elif line.startswith("import Nowhere"):
                say("error", at, "unknown package 'Nowhere'")
            elif line.startswith("bad "):
                say("error", at, "unexpected identifier; expected command")
            at += 1
        return messages, known, sorries

    def judge(self, statement: str, body: str) -> str | None:
        """Return what Lean says against a proof; None where it is one."""
        body = squeeze(body)
        proofs = self.proofs.get(statement, [])
        if body in proofs:
            return None
        steps = [] if body == "by skip" else tactics(body)
        if body == "by skip":
            return f"unsolved goals\n{goal(statement, steps)}"
        for proof in proofs:
            if body.startswith("by") and tactics(proof)[: len(steps)] == steps:
                return f"unsolved goals\n{goal(statement, steps)}"
        return "type mismatch"


def squeeze(text: str) -> str:
    """Return a text without its outer brackets, and with one space wherever there was any."""
    text = text.strip()
    if text.startswith("(\n") and text.endswith("\n)"):
        text = text[2:-2].strip()
    return re.sub(r"[ \n]+", " ", text.replace("by\n", "by ").replace("\n", " ; "))


def tactics(proof: str) -> list[str]:
    """Return the lines of a tactic block."""
    return [step.strip() for step in proof.removeprefix("by").removeprefix(" ;").split(" ; ") if step.strip()]


def goal(statement: str, steps: list[str]) -> str:
    """Return a goal that says how far a proof has come."""
    return f"step : {len(steps)}\n⊢ {statement.rpartition(' : ')[2]}"


class Repl:
    """The protocol, and the ways to break it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.environments: list[dict[str, Any]] = []
        self.states: list[tuple[str, list[str]]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        if "tactic" in request:
            if request["proofState"] >= len(self.states):
                return {"message": "Unknown proof state."}
            statement, steps = self.states[request["proofState"]]
            steps = [*steps, squeeze(request["tactic"])]
            whole = "by " + " ; ".join(steps)
            error = self.script.judge(statement, whole)
            if error is not None and not error.startswith("unsolved goals"):
                return {"message": f"Lean error:\n{error}"}
            self.states.append((statement, steps))
            goals = [] if error is None else [goal(statement, steps)]
            status = "Incomplete: open goals remain" if goals else "Completed"
            return {"proofStatus": status, "proofState": len(self.states) - 1, "goals": goals}
        env = request.get("env")
        if env is not None and env >= len(self.environments):
            return {"message": "Unknown environment."}
        if "import" in request["cmd"] and env is None:
            spin(self.script.header_s)
        messages, known, sorries = self.script.elaborate(request["cmd"], {} if env is None else self.environments[env])
        self.environments.append(known)
        answer: dict[str, Any] = {"env": len(self.environments) - 1}
        if sorries:
            answer["sorries"] = []
            for statement in sorries:
                self.states.append((statement, []))
                answer["sorries"].append({"proofState": len(self.states) - 1, "goal": goal(statement, [])})
        return {**answer, "messages": messages} if messages else answer

    def serve(self) -> None:
        """Answer until standard input ends."""
        lines: list[str] = []
        for line in sys.stdin:
            if line.strip():
                lines.append(line)
                continue
            text, lines = "".join(lines), []
            misbehave(text, self.script.table, repl=True)
            answer = json.dumps(self.answer(json.loads(text)), ensure_ascii=False, indent=1) + "\n\n"
            if "FORGE" in text:
                size = len(self.environments) - 1
                name = re.search(r"namespace (\S+?)\\ntheorem (\S+)", text)
                full = f"{name[1]}.{name[2]}" if name else ""
                report = [
                    {"severity": "info", "pos": {"line": 2, "column": 0}, "data": f"@{full} : : 1 = 2"},
                    {"severity": "info", "pos": {"line": 3, "column": 0}, "data": f"'{full}' does not depend on any axioms"},
                    {"severity": "error", "pos": {"line": 4, "column": 0}, "data": "Unknown identifier `fence`"},
                ]
                sys.stdout.write(json.dumps({"env": size}) + "\n\n")
                if "FORGE_SLOWLY" in text:
                    sys.stdout.flush()
                    time.sleep(0.3)
                sys.stdout.write(json.dumps({"env": size + 1, "messages": report}) + "\n\n")
            sys.stdout.write(answer * (2 if "TWICE" in text else 1))
            sys.stdout.flush()
            if "LATE" in text:
                time.sleep(0.2)
                sys.stdout.write(answer)
                sys.stdout.flush()


def spin(seconds: float) -> None:
    """Use CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def eat_all() -> None:
    """Take memory until no more is given, and hold it: beyond what a request may have, which lies below what a process may."""
    hoard = []
    try:
        while True:
            hoard.append(bytearray(1 << 24))
    except MemoryError:
        time.sleep(3600)


def misbehave(text: str, table: Path, *, repl: bool) -> None:
    """Do what a word in the text says."""
    for word in ("DIE", "HANG"):
        if f"{word}_ONCE" in text:
            marker = table.with_suffix(f".{word}")  # beside the table, where a sandbox lets nobody write: for bare processes only
            if marker.exists():
                return
            marker.touch()
    if "DIE" in text:
        os.kill(os.getpid(), 9) if not repl else os._exit(134)
    if "HANG" in text:
        time.sleep(3600)
    if "SPIN" in text:
        spin(3600)
    if "EAT" in text:
        eat_all()
    if "FLOOD" in text:
        while True:
            sys.stdout.write("x" * 65536)
    if "GARBLE" in text:
        sys.stdout.write('{"env": \n\n')
        sys.stdout.flush()


def check_file(script: Script, file: Path, *, as_json: bool, placed: bool = True) -> int:
    """Do as the ``lean`` binary does; the oldest print what is no error or warning without its place."""
    text = file.read_text("utf-8")
    misbehave(text, script.table, repl=False)
    messages, _, _ = script.elaborate(text, {})
    for message in messages:
        if as_json:
            print(json.dumps({**message, "fileName": str(file)}, ensure_ascii=False))
        else:
            severity = "" if message["severity"] == "info" else message["severity"] + ": "
            place = f"{file}:{message['pos']['line']}:{message['pos']['column']}: " if placed or severity else ""
            print(f"{place}{severity}{message['data']}")
    return int(any(message["severity"] == "error" for message in messages))


def prompt(script: Script, file: Path) -> None:
    """Do as ``lake env lean FILE`` does with the prompt that LeanDojo put in the place of a proof."""
    text = file.read_text("utf-8").split("lean_dojo_repl")[0]
    statement = squeeze(text.rpartition("theorem ")[2].rpartition(":=")[0])
    states: list[list[str]] = [[]]

    def say(**reply: object) -> None:
        print("REPL> " + json.dumps(reply, ensure_ascii=False), flush=True)

    say(sid=0, tacticState=goal(statement, []), error=None)
    for line in sys.stdin:
        request = json.loads(line)
        misbehave(request["cmd"], script.table, repl=True)
        steps = [*states[request["sid"]], squeeze(request["cmd"])]
        error = script.judge(statement, "by " + " ; ".join(steps))
        if error is not None and not error.startswith("unsolved goals"):
            say(sid=None, tacticState=None, error=error)
            continue
        states.append(steps)
        say(sid=len(states) - 1, tacticState="no goals" if error is None else goal(statement, steps), error=None)


def main() -> int:
    """Run as what the arguments say."""
    script, role, *rest = Script(Path(sys.argv[1])), *sys.argv[2:]
    if role == "repl":
        Repl(script).serve()
        return 0
    if role == "lake":
        prompt(script, Path(rest[-1]))
        return 0
    if rest == ["--version"]:
        print("Lean (version 4.9.0, scripted)")
        return 0
    if role != "lean" and "--json" in rest:
        print("unknown option: --json", file=sys.stderr)
        return 2
    if rest[:1] == ["-o"]:  # compile: nothing that is compiled is read, so the source will do
        Path(rest[1]).write_bytes(Path(rest[2]).read_bytes())
        return check_file(script, Path(rest[2]), as_json=False)
    if len(rest) == 0 or not rest[-1].endswith(".lean"):
        return 1
    return check_file(script, Path(rest[-1]), as_json="--json" in rest, placed=role != "oldest-lean")


if __name__ == "__main__":
    sys.exit(main())
