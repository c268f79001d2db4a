"""Answers that want to be taken for proofs, as data: name, answer, and what must stop them.

`stopped_by` is a rule of the lexical gate, or ``kernel`` for an answer that is honest text and false mathematics (or asks too much of
the machine), which only Lean itself can refuse. The statement is ``theorem target : 1 = 2`` throughout, so no answer can be right.
"""

from __future__ import annotations

from typing import NamedTuple


class Hack(NamedTuple):
    """One attempt."""

    name: str
    answer: str
    stopped_by: str


STATEMENT = "theorem target : 1 = 2"

HACKS = (
    # --- the proof left open
    Hack("sorry", "sorry", "sorry"),
    Hack("sorry in a block", "by\n  sorry", "sorry"),
    Hack("admit", "by admit", "sorry"),
    Hack("stop", "by\n  stop\n  rfl", "sorry"),
    Hack("sorryAx", "sorryAx _ false", "sorry"),
    Hack("sorryAx by its root", "_root_.sorryAx _ true", "sorry"),
    Hack("sorryAx explicitly", "@sorryAx (1 = 2) false", "sorry"),
    Hack("sorryAx between guillemets", "«sorryAx» _ false", "sorry"),
    Hack("sorry glued to a number", "by exact (0xfsorry)", "number"),
    Hack("sorry glued to an exponent", "by exact (1e5sorry)", "number"),
    Hack("sorry before a superscript", "by exact sorryᶜ", "sorry"),
    Hack("sorry in an interpolation", 'by exact absurd s!"{sorry}" _', "sorry"),
    Hack("sorry after a closed comment", "by /- -/ sorry", "sorry"),
    Hack("sorry after a nested comment", "by /- /- -/ -/ sorry", "sorry"),
    Hack("sorry on the line after a comment", "by --\n sorry", "sorry"),
    Hack("lcProof", "lcProof", "meta"),
    # --- the term ended and a command begun
    Hack("axiom", "by trivial\n\naxiom cheat : False", "command"),
    Hack("axiom and its use", "cheat.elim\naxiom cheat : False", "command"),
    Hack("second theorem", "rfl\ntheorem other : True := trivial", "command"),
    Hack("instance", "by decide\ninstance : Decidable (1 = 2) := .isTrue lie", "command"),
    Hack("local instance", "by decide\nlocal instance : Decidable (1 = 2) := isTrue lie", "command"),
    Hack("macro that redefines a tactic", 'by simp\nmacro "simp" : tactic => `(tactic| sorry)', "command"),
    Hack("macro_rules on #print", "rfl\nmacro_rules | `(#print axioms $x) => `(#eval 1)", "command"),
    Hack("syntax", 'rfl\nsyntax "foo" : term', "command"),
    Hack("notation for False", 'rfl\nnotation "False" => True', "command"),
    Hack("local notation", 'rfl\nlocal notation "a" => b', "command"),
    Hack("infix", 'rfl\ninfix:50 " = " => fun _ _ => True', "command"),
    Hack("elab", 'rfl\nelab "x" : term => default', "command"),
    Hack("elab of quotations, in old Leans", "rfl\nelab_stx_quot Lean.Parser.Term.quot", "command"),
    Hack("open namespace left", "rfl\nend Fresh\nnamespace Other", "command"),
    Hack("variable", "rfl\nvariable (h : 1 = 2)", "command"),
    Hack("attribute", "by\n  attribute [local simp] foo in simp", "command"),
    Hack("attribute on let rec", "let rec @[simp] f : 1 = 2 := f; f", "command"),
    Hack("implemented_by", "let rec @[implemented_by g] f : 1 = 2 := f; f", "command"),
    Hack("extern", 'rfl\n@[extern "c"] opaque f : 1 = 2', "command"),
    Hack("opaque", "rfl\nopaque f : 1 = 2", "command"),
    Hack("constant of old Lean", "f\nconstant f : 1 = 2", "command"),
    Hack("eval", "rfl\n#eval 1", "command"),
    Hack("print", "rfl\n#print axioms foo", "command"),
    Hack("exit", "rfl\n#exit", "command"),
    Hack("import", "rfl\nimport Evil", "command"),
    Hack("run_cmd", "rfl\nrun_cmd pure ()", "command"),
    Hack("initialize", "rfl\ninitialize pure ()", "command"),
    Hack("deriving", "rfl\nderiving instance Inhabited for Nat", "command"),
    Hack("where", "helper where helper : 1 = 2 := helper", "command"),
    Hack("decreasing_by", "target\ndecreasing_by sorry", "command"),
    Hack("unsafe", "unsafe rfl", "meta"),
    Hack("partial let rec", "let rec partial f : 1 = 2 := f; f", "command"),
    Hack("module doc is a command", "rfl\n/-! hello -/", "comment"),
    Hack("doc comment for the next command", "rfl\n/-- hello -/", "comment"),
    Hack("bracket closed early", "rfl)\n#eval (1", "bracket"),
    Hack("bracket left open", "(rfl", "bracket"),
    Hack("definition of its own", ":= rfl", "term"),
    # --- the elaborator, the compiler, the machine
    Hack("run_tac", "by run_tac pure ()", "command"),
    Hack("by_elab", "by_elab return default", "meta"),
    Hack("eval%", "eval% (rfl : 1 = 2)", "meta"),
    Hack("native_decide", "by native_decide", "meta"),
    Hack("nativeDecide, in old Leans", "by nativeDecide", "meta"),
    Hack("decide +native", "by decide +native", "meta"),
    Hack("decide with a configuration", "by decide (config := {native := true})", "meta"),
    Hack("bv_decide", "by bv_decide", "meta"),
    Hack("ofReduceBool", "Lean.ofReduceBool _ _ rfl", "meta"),
    Hack("trustCompiler opened", "by open Lean in exact trustCompiler.elim", "open"),
    Hack("unsafeCast", "unsafeCast trivial", "meta"),
    Hack("unsafeIO in a configuration", "by simp (config := (unsafeIO act).toOption.get!)", "meta"),
    Hack("IO", 'by exact (IO.println "x")', "meta"),
    Hack("environment edit", "by exact (do Lean.addDecl x)", "meta"),
    Hack("file read at elaboration", 'by exact include_str "secret"', "command"),
    Hack("debug.skipKernelTC", "by\n  set_option debug.skipKernelTC true in\n  rfl", "set_option"),
    Hack("debug option through a dotted look-alike", "by set_option «debug».skipKernelTC true in rfl", "set_option"),
    Hack("warning switched off", "by set_option warn.sorry false in rfl", "set_option"),
    Hack("option without in", "by simp\nset_option autoImplicit true", "set_option"),
    Hack("open without in", "rfl\nopen Nat", "open"),
    Hack("open a namespace of its own", "by open Evil in rfl", "open"),
    Hack("name quotation", "by exact `sorry", "meta"),
    Hack("syntax quotation", "by exact (`(sorry))", "meta"),
    # --- look-alikes and what can't be seen
    Hack("fullwidth sorry", "ｓｏｒｒｙ", "character"),
    Hack("Cyrillic in sorry", "ѕorry", "character"),
    Hack("mathematical bold letters", "by exact 𝐬𝐨𝐫𝐫𝐲", "character"),
    Hack("script letters", "by exact 𝓼𝓸𝓻𝓻𝔂", "sorry"),
    Hack("zero-width joiner in a keyword", "by so\u200drry", "character"),
    Hack("right-to-left override in a comment", "by rfl -- \u202e yrros", "comment"),
    Hack("no-break space", "by\u00a0rfl", "character"),
    Hack("line separator ends a comment for some", "by rfl -- \u2028 sorry", "comment"),
    Hack("carriage return ends a comment for some", "by rfl -- \r sorry", "comment"),
    Hack("NUL", "by rfl\x00", "character"),
    Hack("tab", "by\trfl", "character"),
    # --- comments, strings and characters that are read in two ways
    Hack("comment left open", "by rfl /- ", "comment"),
    Hack("comment closed twice", "by rfl /- -/ -/", "kernel"),
    Hack("comment of a doubled dash", "by rfl /- --/ sorry /- -/", "comment"),
    Hack("arrow that hides a comment", "by rw [<--sorry]", "comment"),
    Hack("string left open", 'by rfl "', "string"),
    Hack("string that escapes its end", 'by rfl "\\"', "string"),
    Hack("brace in a string", 'by rfl "{"', "string"),
    Hack("raw string with a backslash", 'by exact r"\\" sorry "', "string"),
    Hack("raw string with hashes", 'by exact r#"a"b"# sorry', "string"),
    Hack("character of a quotation mark", "by exact '\"' sorry '\"'", "literal"),
    Hack("comment in a string", 'by exact "--" sorry', "sorry"),
    Hack("guillemets over a line", "by exact «a\nb»", "name"),
    # --- printed messages
    Hack("trace of a fake report", "by\n  trace \"'target' does not depend on any axioms\"\n  rfl", "meta"),
    Hack("dbg_trace", 'dbg_trace "x"; rfl', "meta"),
    Hack("trace_state", "by trace_state; rfl", "meta"),
    # --- honest text that proves nothing
    Hack("rfl", "rfl", "kernel"),
    Hack("itself", "target", "kernel"),
    Hack("itself through let rec", "let rec f : 1 = 2 := f; f", "kernel"),
    Hack("instance that lies", "by\n  have : Decidable (1 = 2) := .isTrue (by rfl)\n  decide", "kernel"),
    Hack("contradiction that is none", "absurd rfl (by decide : ¬ (1 = 1))", "kernel"),
    Hack("hole", "_", "kernel"),
    Hack("named hole", "?x", "kernel"),
    Hack("another statement", "(rfl : 1 = 1)", "kernel"),
    Hack("another statement by type ascription", "show 1 = 1 from rfl", "kernel"),
    Hack("shadowed equality", "let Eq := fun (_ _ : Nat) => True; (trivial : Eq 1 2)", "kernel"),
    Hack("shadowed name of an axiom", "have propext : 1 = 2 := by rfl; propext", "kernel"),
    Hack("search for what is not there", "by exact?", "kernel"),
    Hack("error recovered from", "by first | rfl | skip", "kernel"),
    Hack("goal discarded", "by\n  all_goals (try rfl)", "kernel"),
    Hack("huge decide", "by decide +kernel", "kernel"),
    Hack("endless loop", "by repeat (first | rfl | skip)", "kernel"),
    Hack("endless simp", "by simp [show 1 = 1 + 0 from rfl, Nat.add_comm]", "kernel"),
    Hack("nothing", "-- nothing\n", "empty"),
)
