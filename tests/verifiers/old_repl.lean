/-
Speaks leanprover-community/repl's protocol on a Lean 4 that is too old for it (`lean --run`, with Lean's own library compiled), so that
the `repl` backend can be tested on a real kernel. A JSON object and a blank line in, the same out: `cmd` and `env`, `tactic` and
`proofState`. Unlike the real one it knows a state by its tactics and runs all of them for every step.
-/
import Lean
open Lean Lean.Elab

/-- A declaration whose proof was left open, with `by sorry`, and the tactics that stand there by now. -/
structure Open where
  state : Command.State
  text : String
  tactics : Array String := #[]

structure Repl where
  envs : Array Command.State := #[]
  proofs : Array Open := #[]

def hole := "by sorry"

def failure (text : String) : Json := Json.mkObj [("message", text)]

def severity : MessageSeverity → String
  | MessageSeverity.information => "info"
  | MessageSeverity.warning => "warning"
  | MessageSeverity.error => "error"

def report (message : Message) : IO Json := do
  let text ← message.data.toString
  return Json.mkObj [("severity", severity message.severity), ("data", text),
    ("pos", Json.mkObj [("line", message.pos.line), ("column", message.pos.column)])]

/-- Runs commands after what a state holds, or after their own header; returns the new state, whose messages are of these commands. -/
def elaborate (text : String) (before : Option Command.State) : IO Command.State := do
  let input := Parser.mkInputContext text "<repl>"
  let (state, parser) ← match before with
    | some state => pure ({ state with messages := {} }, {})
    | none => do
      let (header, parser, messages) ← Parser.parseHeader input
      let (env, messages) ← processHeader header {} messages input
      pure (Command.mkState env messages {}, parser)
  let final ← IO.processCommands input parser state
  return final.commandState

/-- The goals that are left, or what is wrong. -/
def step (proof : Open) : IO (Except String (List String)) := do
  let tactics := if proof.tactics.isEmpty then #["skip"] else proof.tactics
  let lines := tactics.map fun tactic => "\n  " ++ "\n  ".intercalate (tactic.splitOn "\n")
  let state ← elaborate (("by" ++ lines.foldl (· ++ ·) "").intercalate (proof.text.splitOn hole)) proof.state
  for message in state.messages.toList do
    if message.severity == MessageSeverity.error then
      let text ← message.data.toString
      let parts := text.splitOn "unsolved goals\n"
      match parts with
      | ["", goals] => return Except.ok (goals.splitOn "\n\n")
      | _ => return Except.error text
  return Except.ok []

def answerTactic (repl : Repl) (number : Nat) (tactic : String) : IO (Repl × Json) := do
  match repl.proofs.get? number with
  | none => return (repl, failure "Unknown proof state.")
  | some proof =>
    let proof := { proof with tactics := proof.tactics.push tactic }
    match ← step proof with
    | Except.error text => return (repl, failure ("Lean error:\n" ++ text))
    | Except.ok goals =>
      let status := if goals.isEmpty then "Completed" else "Incomplete: open goals remain"
      let said := [("proofStatus", Json.str status), ("proofState", toJson repl.proofs.size), ("goals", toJson goals.toArray)]
      return ({ repl with proofs := repl.proofs.push proof }, Json.mkObj said)

def answerCommand (repl : Repl) (text : String) (before : Option Command.State) : IO (Repl × Json) := do
  let state ← elaborate ("sorry".intercalate (text.splitOn hole)) before
  let messages ← state.messages.toList.toArray.mapM report
  let said := [("env", toJson repl.envs.size), ("messages", Json.arr messages)]
  let repl := { repl with envs := repl.envs.push state }
  match before, (text.splitOn hole).length with
  | some state, 2 =>
    let proof : Open := { state := state, text := text }
    match ← step proof with
    | Except.ok [goal] =>
      let sorries := Json.arr #[Json.mkObj [("proofState", repl.proofs.size), ("goal", goal)]]
      return ({ repl with proofs := repl.proofs.push proof }, Json.mkObj (("sorries", sorries) :: said))
    | _ => return (repl, Json.mkObj said)
  | _, _ => return (repl, Json.mkObj said)

/-- Reads a JSON string from behind its quotation mark on, and on to behind it. (`Json.parse` recurs once for every character.) -/
partial def readString (it : String.Iterator) (read : String := "") : IO (String × String.Iterator) :=
  let rest := it.next
  if !it.hasNext || it.curr == '"' then pure (read, rest)
  else if it.curr != '\\' then readString rest (read.push it.curr)
  else match rest.curr with
    | 'n' => readString rest.next (read.push '\n')
    | 'u' =>
      let unit := hex (rest.nextn 1)
      if unit < 0xD800 || unit ≥ 0xDC00 then readString (rest.nextn 5) (read.push (Char.ofNat unit))
      else  -- the first half of a character; the other one stands behind it as `\uXXXX`
        readString (rest.nextn 11) (read.push (Char.ofNat (0x10000 + (unit - 0xD800) * 0x400 + (hex (rest.nextn 7) - 0xDC00))))
    | other => readString rest.next (read.push other)
where
  digit (c : Char) : Nat := if c.isDigit then c.toNat - '0'.toNat else c.toLower.toNat - 'a'.toNat + 10
  hex (it : String.Iterator) : Nat := (List.range 4).foldl (fun value place => 16 * value + digit (it.nextn place).curr) 0

/-- Reads `{"kind": "text"}` or `{"kind": "text", "of": number}`, as flywheel writes it. -/
def readRequest (line : String) : IO (String × String × Option Nat) := do
  let (kind, it) ← readString (line.mkIterator.nextn 2)
  let (text, it) ← readString (it.nextn 3)
  let digits := String.mk (it.remainingToString.toList.filter Char.isDigit)
  return (kind, text, if digits.isEmpty then none else digits.toNat?)

def answer (repl : Repl) (line : String) : IO (Repl × Json) := do
  let (kind, text, number) ← readRequest line
  if kind == "tactic" then
    answerTactic repl (number.getD repl.proofs.size) text
  else match number with
    | none => answerCommand repl text none
    | some number => match repl.envs.get? number with
      | none => return (repl, failure "Unknown environment.")
      | some state => answerCommand repl text (some state)

partial def serve (repl : Repl) : IO Unit := do
  let line ← (← IO.getStdin).getLine
  if line.trim.isEmpty then
    unless line.isEmpty do serve repl
  else
    let (repl, said) ← answer repl line
    let out ← IO.getStdout
    out.putStr (said.compress ++ "\n\n")
    out.flush
    serve repl

def main : IO Unit := serve {}
