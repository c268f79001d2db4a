"""Search for lemmas by text, in the environment that the task's header loads: names and statements, shortest names first."""

from __future__ import annotations

import re

from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError, Theorem

MAX_WORDS = 4
# Every word must occur in the lemma's name or among the names in its statement. The words are letters and digits only, so they can't
# leave their strings.
_PROGRAM = """#eval show Lean.Elab.Command.CommandElabM Unit from do
  let words : List String := [{words}]
  let env ← Lean.getEnv
  let found := env.constants.fold (init := #[]) fun (acc : Array (Lean.Name × Lean.Expr)) name info =>
    let text := toString name ++ " " ++ toString (info.type.getUsedConstants.toList)
    if !name.isInternal && words.all (fun word => (text.splitOn word).length > 1) then acc.push (name, info.type) else acc
  let sorted := found.qsort (fun a b => (toString a.1).length < (toString b.1).length)
  for (name, type) in sorted.toList.take {limit} do
    Lean.logInfo (Lean.MessageData.ofName name ++ " : " ++ Lean.MessageData.ofExpr type)"""


def search_lemmas(backend: LeanBackend, theorem: Theorem, query: str, limit: int = 8) -> list[str]:
    """Return ``name : statement`` of lemmas that match every word of a query.

    Raises:
        VerifierError: Lean can't be reached.
        ValueError: this Lean can't run the search.
    """
    words = re.findall(r"[A-Za-z0-9_']+", query)[:MAX_WORDS]
    if not words:
        return []
    program = _PROGRAM.format(words=", ".join(f'"{word}"' for word in words), limit=limit)
    try:
        got = backend.elaborate(f"import Lean\n{theorem.header}", [program], project=theorem.project)
    except LeanMissingError:  # it has no library of itself, or not what the header asks for
        raise ValueError("this Lean can't search its lemmas") from None
    if got.broke is not None or any(message.severity == "error" for message in got.messages[0]):
        raise ValueError("this Lean can't search its lemmas")
    return [" ".join(message.text.split()) for message in got.messages[0] if message.severity == "info"][:limit]
