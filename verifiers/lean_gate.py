"""The lexical gate: lets a term or a tactic block through and nothing else, before any Lean sees it.

It works on the tokens of `flywheel.verifiers.lean_lexer`. Words that begin commands, reach the elaborator, run programs or leave a
proof open are refused wherever they stand, as a component of a name too; options and opened namespaces are on allow-lists; the terms that
tactics evaluate must be plain. An answer that passes is put between parentheses, so that whatever still ends the term is a syntax error,
and an error is a failure.

What it is not: a parser. A text that passes may be no proof at all; that is Lean's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flywheel.verifiers.lean_lexer import Token, UnreadableError, tokenize

MAX_ANSWER_CHARS = 100_000
MAX_TOKENS = 50_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMMANDS = _words(
    """
    abbrev add_aesop_rules add_decl_doc alias assert_exists assert_no_sorry assert_not_exists assert_not_imported attribute aux_def
    axiom binder_predicate builtin_dsimproc builtin_initialize builtin_simproc cbv_simproc cbv_simproc_decl cbv_simproc_pattern class
    coinductive coinductive_fixpoint compile_def compile_inductive constant count_heartbeats declare_aesop_rule_sets
    declare_bitwise_int_theorems declare_config_elab declare_simp_like_tactic declare_syntax_cat declare_uint_theorems decreasing_by def
    def_eval_config_item def_replacer def_wanted deprecate deprecated_module deprecated_syntax derive_eval_expr_instance_using_meta_eval
    deriving docs_to_verso dsimproc dsimproc_decl elab elab_rules elab_stx elab_stx_quot end end_local_scope ensure_eval_expr_instance
    ensure_eval_term_expr_instances ensure_eval_term_instance erase_aesop_rules example export extend_docs extern gen_cnstr_fns
    gen_injective_theorems gen_lean_encoders gen_toml_decoders gen_toml_encoders grind_annotated grind_pattern grind_propagator
    guard_decl guard_min_heartbeats hydrate_opaque_type import include include_str inductive inductive_fixpoint infix infixl infixr
    init_grind_norm init_quot initialize initialize_simps_projections insert_to_additive_translation instance instance_wanted
    irreducible_def lemma library_note local lrat_proof macro macro_rules make_elab_grind_config make_elab_simp_config meta
    mk_iff_of_inductive_prop mutual name_poly_vars name_power_vars namespace noncomputable nonempty_type nonrec norm_cast_add_elim
    notation notation3 omit opaque partial partial_fixpoint postfix postprocess_traces prefix private proof_wanted protected public
    recall recommended_spelling register_builtin_option register_error_explanation register_label_attr register_option
    register_parser_alias register_simp_attr reprove reset_grind_attrs restate_axiom run_cmd run_conv run_elab run_meta run_tac scoped
    seal section set_library_suggestions set_premise_selector show_panel_widgets simproc simproc_decl simproc_pattern
    stop_at_first_error structure sudo suppress_compilation syntax tactic_extension termination_by termination_by' test_extern theorem
    theorem_wanted to_additive_name_hint to_dual_insert_cast to_dual_insert_cast_fun to_dual_name_hint unif_hint universe universes
    unlock_limits unseal unset_option unsuppress_compilation variable variables whatsnew where with_weak_namespace
    """
)
UNFINISHED = _words("admit sorry stop")
# Names that leave a proof open, trust or run compiled code, or reach the elaborator and the machine; refused as a component of a name too.
NAMES = _words(
    """
    addDecl addDeclWithoutChecking Aesop allocprof BaseIO bv_check bv_decide by_elab CommandElabM CoreM csimp dbgTrace EIO Elab ElabM
    Environment eprint eprintln EST EStateM evalTactic FS getStderr getStdin getStdout idbg implemented_by implementedBy IO Lake lcAny
    lcProof lcUnreachable Lean Macro MacroM Meta MetaM native native_decide nativeDecide ofReduceBool ofReduceNat panic Plausible
    plausible polyrith print println Process ProofWidgets ptrEq Qq RealWorld reduceBool reduceNat runEST runST Runtime sleep
    sleep_heartbeats slim_check sorryAx ST System TacticM TermElabM timeit trace_state traceState trustCompiler unreachable
    with_panel_widgets withPtrEq
    """
)
# Tactics that compile and run the terms which configure them: `(config := term)`, in newer Lean `(item := term)`.
CONFIGURED = _words(
    """
    abel abel_nf aesop apply apply_assumption apply_rewrite apply_rules bound by_cases by_contra cbv cc congr continuity contrapose
    convert convert_to cutsat decide dsimp erw exact ext extract_lets field field_simp fun_prop gcongr grind grobner group hint
    injections lia lift_lets linarith measurability mvcgen native_decide nlinarith noncomm_ring norm_cast norm_num nth_rewrite nth_rw
    omega order positivity pull push push_cast push_neg rewrite ring ring1_nf ring_nf rw rw_search rwa simp simp_all simp_all_arith
    simp_arith simp_intro simp_rw simp_wf simpa solve_by_elim split split_ifs tauto try unfold
    """
)
DISCHARGERS = _words("disch discharger")  # `(disch := tactic)` is no term
PREFIXES = tuple(_words("unsafe dbg debug sorry native_ reduceBool ofReduce builtin_ register_ run_ declare_ wait_for_"))
OPTIONS = _words(
    "maxHeartbeats maxRecDepth synthInstance.maxHeartbeats synthInstance.maxSize exponentiation.threshold linter.unusedVariables"
)
NAMESPACES = _words(
    """
    BigOperators Classical Complex ComplexConjugate ENNReal EuclideanGeometry Filter Finset Function Int Interval List
    MeasureTheory Multiset NNReal Nat Option Order Pointwise Polynomial Prod Rat Real Set Sum Topology
    """
)
# Right after `#` a short word may be notation (the size of a finite set); a longer one is a command.
_MAX_HASH_WORD = 2
_MAX_ITEMS = 8  # before one that are looked through for the tactic that they configure


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a text is refused: the rule that it breaks, and where."""

    rule: str
    detail: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A theorem's parts: ``theorem Namespace.name.{u} (binders) : type`` without what follows `:=`."""

    namespace: str
    name: str
    signature: str


def normalized(text: str) -> str:
    """Return a text as Lean reads it: carriage returns before line feeds left out."""
    return text.replace("\r\n", "\n")


def refuse_answer(answer: str) -> Refusal | None:
    """Return why an answer (what follows ``:=``) is no term or tactic block; None where it may be one."""
    if len(answer) > MAX_ANSWER_CHARS:
        return Refusal(rule="size", detail=f"{len(answer)} characters, at most {MAX_ANSWER_CHARS}", line=1)
    try:
        tokens = tokenize(normalized(answer))
    except UnreadableError as error:
        return Refusal(rule=error.rule, detail=error.detail, line=error.line)
    if not tokens:
        return Refusal(rule="empty", detail="there is nothing but comments", line=1)
    if len(tokens) > MAX_TOKENS:
        return Refusal(rule="size", detail=f"{len(tokens)} tokens, at most {MAX_TOKENS}", line=1)
    if _starts(tokens, 0, ":="):
        return Refusal(rule="term", detail="an answer is what follows ':='; leave ':=' out", line=1)
    return _refuse_tokens(tokens)


def refuse_tactic(tactic: str) -> Refusal | None:
    """Return why a text is no tactic that may be run."""
    return refuse_answer(tactic)


def read_statement(statement: str) -> Statement:
    """Return the parts of a task's statement.

    Raises:
        ValueError: it is not one theorem without its proof.
    """
    text = normalized(statement).strip()
    try:
        tokens = tokenize(text)
    except UnreadableError as error:
        raise ValueError(f"statement: {error}") from None
    words = [token.text for token in tokens[:2]]
    if len(words) < 2 or words[0] not in ("theorem", "lemma") or tokens[1].kind != "word":
        raise ValueError(f"statement begins with {' '.join(words)!r}, expected 'theorem NAME'")
    depth = 0
    for at, token in enumerate(tokens):
        depth += token.text in "([{⟨⟦⦃" if token.kind == "symbol" else 0
        depth -= token.text in ")]}⟩⟧⦄" if token.kind == "symbol" else 0
        if depth == 0 and _starts(tokens, at, ":=") and not _follows_binding(tokens, at):
            raise ValueError("statement has ':=' in it: give the theorem up to and without ':='")
        if at and token.kind == "word" and token.text in ("theorem", "lemma", "axiom", "def", "example", "end"):
            raise ValueError(f"statement has a second command in it: {token.text!r}")
    namespace, _, name = words[1].removeprefix("_root_.").rpartition(".") if "«" not in words[1] else ("", "", words[1])
    return Statement(namespace=namespace, name=name, signature=text[tokens[1].end :].strip())


def refuse_statement(statement: str) -> Refusal | None:
    """Return why a statement that a policy proposed is not to be elaborated."""
    try:
        read_statement(statement)
    except ValueError as error:
        return Refusal(rule="statement", detail=str(error), line=1)
    return _refuse_tokens(tokenize(normalized(statement).strip())[1:])


# ---------------------------------------------------------------- rules


def _refuse_tokens(tokens: Sequence[Token]) -> Refusal | None:
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.text in ("open", "set_option"):
            end = _allowed_scope(tokens, at)
            if end is None:
                detail = f"'{token.text}' of something that is not on the list of what a proof may use, or without 'in'"
                return Refusal(rule=token.text, detail=detail, line=token.line)
            at = end
            continue
        found = _refuse_word(token) or _refuse_rest(tokens, at) if token.kind == "word" else _refuse_symbol(tokens, at)
        if found is not None:
            return Refusal(rule=found[0], detail=found[1], line=token.line)
        at += 1
    return _refuse_configuration(tokens)


def _refuse_word(token: Token) -> tuple[str, str] | None:
    plain = [part.rstrip("!?") for part in token.parts]
    whole = ".".join(plain)
    if whole in UNFINISHED:
        return "sorry", f"{token.text!r} leaves the proof open"
    if whole in COMMANDS or whole in ("open", "set_option"):
        return "command", f"{token.text!r} begins a command"
    for part in plain:
        if part == "sorryAx":
            return "sorry", f"{token.text!r} leaves the proof open"
        if part in NAMES or part.startswith(PREFIXES):
            return "meta", f"{part!r} is not allowed in a proof"
    return None


def _refuse_rest(tokens: Sequence[Token], at: int) -> tuple[str, str] | None:
    """Refuse a word whose first letter Lean may take for the end of a broken character, or of a number, if what is left is refused."""
    before = [token.text if token.kind == "symbol" else token.kind for token in tokens[max(0, at - 2) : at]]
    if before[-1:] == ["'"] or (before == ["number", "."] and tokens[at].text[0] in "eE"):
        for part in tokens[at].text[1:].split("."):
            if part and (found := _refuse_word(replace(tokens[at], text=part))):
                return found
    return None


def _refuse_symbol(tokens: Sequence[Token], at: int) -> tuple[str, str] | None:
    token = tokens[at]
    before = tokens[at - 1] if at else None
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if token.kind == "literal":
        return ("meta", "'trace' prints messages") if before is not None and before.text == "trace" else None
    if token.text == "`":
        return "meta", "a backtick quotes names or syntax, which no proof needs"
    if token.text == "@" and after is not None and after.text == "[" and after.glued:
        return "command", "'@[' begins attributes"
    if token.text == "#" and after is not None and after.kind == "word" and (not after.glued or len(after.text) > _MAX_HASH_WORD):
        return "command", f"'#{after.text}' is a command"
    if token.text == "%" and token.glued and before is not None and before.text in ("eval", "eval_expr", "eval_check"):
        return "meta", f"'{before.text}%' runs programs"
    return None


def _refuse_configuration(tokens: Sequence[Token]) -> Refusal | None:
    """Refuse ``(item := term)`` that a tactic evaluates, unless the term says nothing but numbers and names."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for at, token in enumerate(tokens):
        if token.text == "(":
            opened.append(at)
        elif token.text == ")":
            partner[at] = opened.pop()
            partner[partner[at]] = at
    for at in _items(tokens):
        if _is_configuration(tokens, at, partner) and not _is_plain(tokens[at + 4 : partner[at]]):
            detail = "a tactic's configuration is run as a program; give numbers, true, false and names"
            return Refusal(rule="config", detail=detail, line=tokens[at].line)
    return None


def _items(tokens: Sequence[Token]) -> list[int]:
    """Return where brackets open that begin with ``item :=``."""
    return [at for at, token in enumerate(tokens[:-1]) if token.text == "(" and _is_item(tokens, at)]


def _is_item(tokens: Sequence[Token], at: int) -> bool:
    return tokens[at + 1].kind == "word" and _starts(tokens, at + 2, ":=")


def _is_configuration(tokens: Sequence[Token], at: int, partner: Mapping[int, int]) -> bool:
    item = tokens[at + 1].parts[-1]
    if item in DISCHARGERS:
        return False
    if item.lower().endswith("config"):
        return True
    for _ in range(_MAX_ITEMS):
        before = tokens[at - 1] if at else None
        if before is None:
            return False
        if before.text == ")" and _is_item(tokens, partner[at - 1]):
            at = partner[at - 1]
        elif before.kind == "word" and at > 1 and tokens[at - 2].text in ("+", "-"):
            at -= 2
        else:
            return before.text.rstrip("!?") in CONFIGURED
    return True


def _is_plain(value: Sequence[Token]) -> bool:
    """Whether a configuration's value is numbers, names, and records and lists of them: no name is applied to anything."""
    for at in range(1, len(value)):
        before, token = value[at - 1], value[at]
        if token.kind in ("word", "number") or token.text in ("{", "["):
            is_choice = token.text == "[" and before.glued and at > 1 and value[at - 2].text == "."  # as in `.pos [1, 2]`
            if (before.kind in ("word", "number") or before.text in ("}", "]")) and not is_choice:
                return False
    return all(token.kind in ("word", "number") or token.text in ("{", "}", "[", "]", ",", ".", ":", "=", "-") for token in value)


def _allowed_scope(tokens: Sequence[Token], at: int) -> int | None:
    """Return where ``open … in`` or ``set_option … in`` ends, if all that it names is allowed."""
    end = next((i for i in range(at + 1, min(at + 12, len(tokens))) if tokens[i].text == "in"), None)
    if end is None:
        return None
    between = tokens[at + 1 : end]
    if tokens[at].text == "set_option":
        if len(between) != 2 or between[0].text not in OPTIONS:
            return None
        return end + 1 if between[1].kind == "number" or between[1].text in ("true", "false") else None
    if between and between[0].text == "scoped":
        between = between[1:]
    return end + 1 if between and all(token.kind == "word" and token.text in NAMESPACES for token in between) else None


def _starts(tokens: Sequence[Token], at: int, text: str) -> bool:
    """Whether the symbols from `at` on spell `text`."""
    piece = tokens[at : at + len(text)]
    return "".join(token.text for token in piece) == text and all(token.glued for token in piece[1:])


def _follows_binding(tokens: Sequence[Token], at: int) -> bool:
    """Whether a ``:=`` belongs to a ``let`` or ``have`` inside the statement's type."""
    opened = 0
    for i in range(at - 1, 0, -1):
        if _starts(tokens, i, ":="):
            opened += 1
        if tokens[i].text in ("let", "have"):
            if opened == 0:
                return True
            opened -= 1
    return False
