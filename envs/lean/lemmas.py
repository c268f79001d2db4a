"""Search for lemmas by text, in the environment that the task's header loads: names and statements, shortest names first."""

from __future__ import annotations

import re

from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError, Theorem

MAX_WORDS = 4
# Every word must occur in the lemma's name or among the names in its statement, which is looked at only where the name lacks a word: a
# large library has hundreds of thousands. Theorems that another module shows without their proofs are axioms to Lean. The words are
# letters and digits only, so they can't leave their strings.
_PROGRAM = """#eval show Lean.MetaM Unit from do
  let words : List String := [{words}]
  let has := fun (text word : String) => ((text.map Char.toLower).splitOn word).length > 1
  let isLemma := fun (info : Lean.ConstantInfo) => match info with
    | Lean.ConstantInfo.thmInfo _ => true
    | Lean.ConstantInfo.axiomInfo _ => true
    | Lean.ConstantInfo.ctorInfo _ => true
    | _ => false
  let env ← Lean.getEnv
  let found := env.constants.fold (init := #[]) fun (acc : Array (String × Lean.Expr)) name info =>
    if name.isInternal || !isLemma info then acc else
      let lacking := words.filter fun word => !has (toString name) word
      let matching := lacking.isEmpty ||
        (let used := toString info.type.getUsedConstants.toList
         lacking.all fun word => has used word)
      if matching then acc.push (toString name, info.type) else acc
  let sorted := found.qsort fun a b => a.1.length < b.1.length || (a.1.length == b.1.length && a.1 < b.1)
  for (name, type) in sorted.toList.take {limit} do
    let statement ← Lean.Meta.ppExpr type
    IO.println (name ++ " : " ++ " ".intercalate ((toString statement).splitOn "\\n"))"""


def search_lemmas(backend: LeanBackend, theorem: Theorem, query: str, limit: int = 8) -> list[str]:
    """Return ``name : statement`` of lemmas that match every word of a query.

    Raises:
        VerifierError: Lean can't be reached.
        ValueError: this Lean can't run the search.
    """
    words = re.findall(r"[A-Za-z0-9_']+", query)[:MAX_WORDS]
    if not words:
        return []
    program = _PROGRAM.format(words=", ".join(f'"{word.lower()}"' for word in words), limit=limit)
    try:
        got = backend.elaborate(f"import Lean\n{theorem.header}", [program], project=theorem.project)
    except LeanMissingError:  # it has no library of itself, or not what the header asks for
        raise ValueError("this Lean can't search its lemmas") from None
    if got.broke is not None or any(message.severity == "error" for message in got.messages[0]):
        raise ValueError("this Lean can't search its lemmas")
    lines = [line for message in got.messages[0] if message.severity == "info" for line in message.text.split("\n")]
    return [" ".join(line.split()) for line in lines if line.strip()][:limit]
