"""The lexical gate alone: what it lets through, what it refuses and by which rule."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_gate import COMMANDS, MAX_ANSWER_CHARS, NAMES, UNFINISHED, read_statement, refuse_answer, refuse_statement
from flywheel.verifiers.lean_lexer import UnreadableError, is_letter, is_rest, tokenize
from tests.verifiers import lean_honest
from tests.verifiers.lean_hacks import HACKS, Hack

HONEST = (
    *lean_honest.HONEST,
    "rfl",
    "by simp",
    "fun h => ⟨h.2, h.1⟩",
    "by\n  intro h\n  exact ⟨h.2, h.1⟩ -- swap the two; no sorry here\n",
    "by\r\n  intro h\r\n  exact h",
    "by\n  /- a /- nested -/ comment: sorry, axiom -/\n  rfl",
    "by\n  induction n with\n  | zero => rfl\n  | succ n ih => rw [Nat.add_succ, ih]",
    "fun n => match n with | 0 => rfl | n + 1 => by simp [n]",
    "by set_option maxHeartbeats 400000 in simp",
    "by set_option maxRecDepth 2000 in decide",
    "by open Classical in exact em _",
    "by open scoped BigOperators in simp",
    "by decide +kernel",
    "by norm_num [show (2:ℝ)⁻¹ = 3 by norm_num]",
    "by simp [Matrix.trace, Polynomial.eval, Id.run, Foo.prefix, h.end_le]",
    "by\n  calc a = b := h\n    _ = c := k",
    "∑' i, f i ▸ sᶜ",
    "(image_subset_iff.mp (f '' s)).trans (by simp [f ⁻¹' t])",
    "by nlinarith [sq_nonneg (a - b), sq_nonneg (a + b)]",
    'fun c => if c = \'a\' ∨ c = \'\\n\' then "x" else "a\\"b"',
    'by exact foo s!"n"',
    "f ⁻¹' s' ⊆ f ⁻¹' (Set.range g) ∪ f '' {x | x ∈ s}",
    "f ⁻¹' s''",
    "h.1.elim (fun xⱼ => xⱼ.1.eq.symm)",
    "by simp (config := {decide := true, maxSteps := 1000}) [h]",
    "by rw (config := { occs := .pos [1, 2] }) [h]",
    "by simp +arith (maxSteps := 500) (disch := (intro x; positivity)) only [h]",
    "by exact foo (n := n + 1) (f := fun x => g x)",
    'by exact r"raw"',
    "by simp [Finset.card_eq_zero, #s, #(s ∩ t)]",
    "by rcases h with ⟨x, hx⟩ | ⟨y, hy⟩ <;> exact?",
    "fun «strange name» => «strange name»",
    "let rec f : Nat → Nat | 0 => 0 | n + 1 => f n; f",
    "by exact Nat.lt_irrefl _ ‹_›",
    "by rw [← h₁, ← Nat.sub_add_cancel h'']; exact h.1.2.symm",
    "by have := n%2; omega",
    "by exact 0xFF.succ_ne_zero 1e5 0b101",
)


@pytest.mark.parametrize("answer", HONEST)
def test_terms_and_tactic_blocks_pass(answer: str) -> None:
    assert refuse_answer(answer) is None


@pytest.mark.parametrize("hack", HACKS, ids=lambda hack: hack.name)
def test_hacks_are_refused_by_the_rule_that_is_meant(hack: Hack) -> None:
    refusal = refuse_answer(hack.answer)
    assert (refusal.rule if refusal else "kernel") == hack.stopped_by, refusal


def test_there_are_enough_hacks() -> None:
    assert len({hack.answer for hack in HACKS}) == len({hack.name for hack in HACKS}) == len(HACKS) >= 60


def test_a_refusal_says_where() -> None:
    refusal = refuse_answer("by\n  simp\n  /- two\n  lines -/\n  admit")
    assert str(refusal) == "line 5: 'admit' leaves the proof open"


def test_an_answer_has_a_size() -> None:
    assert refuse_answer("a" * (MAX_ANSWER_CHARS + 1)).rule == "size"  # type: ignore[union-attr]
    assert refuse_answer("a " * (MAX_ANSWER_CHARS // 2)) is None
    assert refuse_answer("() " * 30_000).rule == "size"  # type: ignore[union-attr]


@pytest.mark.parametrize("answer", ["", " \n", "-- only a comment", "/- /- -/ -/"])
def test_nothing_is_refused(answer: str) -> None:
    assert refuse_answer(answer).rule == "empty"  # type: ignore[union-attr]


# ---------------------------------------------------------------- properties

WORDS = sorted(COMMANDS | NAMES | UNFINISHED)
# What may stand around a word without Lean taking it for a part of another one.
EDGES = st.sampled_from(
    [" ", "\n", "(", ")", ",", ";", "⟩", "▸", "·", "-", "+", "→", "/- x -/", "-- x\n", " ''", "ᶜ", " 'a'", '"s"', "%", "=>"]
)


@settings(max_examples=60, deadline=None)
@given(word=st.sampled_from(WORDS), before=EDGES, after=EDGES, head=st.sampled_from(["", "by ", "fun x => "]))
def test_a_forbidden_word_is_refused_wherever_it_stands(word: str, before: str, after: str, head: str) -> None:
    assert refuse_answer(f"{head}{before}{word}{after}") is not None


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab'0 \n(){}\"\\-/«».rs#!?λᶜ₁Ж`@[]=:")), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        tokens = tokenize(text)
    except UnreadableError:
        return
    at = 0
    for token in tokens:  # every token is there, in order
        at = text.index(token.text, at)
        at += len(token.text) if token.kind != "literal" else 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_whatever_hides_in_a_comment_or_a_string_stays_there(text: str) -> None:
    inert = "".join(c for c in text if c.isascii() and (c.isalnum() or c in " .:;,+*"))
    assert [token.text for token in tokenize(f"a /- {inert} -/ b -- {inert}\nc")] == ["a", "b", "c"]
    assert [token.kind for token in tokenize(f'a "{inert}" b')] == ["word", "literal", "word"]


@settings(max_examples=60, deadline=None)
@given(st.characters())
def test_a_keyword_ends_where_lean_ends_it(char: str) -> None:
    """Whatever follows ``sorry``, the gate refuses the text unless Lean reads a longer name."""
    longer = is_rest(char) and char not in "!?"
    assert refuse_answer(f"sorry{char}a") is not None or longer


def test_letters_are_leans() -> None:
    assert all(is_letter(char) for char in "aZ_αΩℕ𝓟é")
    assert not any(is_letter(char) for char in "λΠΣ0'₁ᶜж×")
    assert all(is_rest(char) for char in "a0'!?₁ₐ")


# ---------------------------------------------------------------- statements


def test_a_statement_is_taken_apart() -> None:
    got = read_statement("theorem Nat.foo.{u} (p q : Prop) (h : p := by trivial) : let x := 1; p → q")
    assert (got.namespace, got.name) == ("Nat", "foo")
    assert got.signature == ".{u} (p q : Prop) (h : p := by trivial) : let x := 1; p → q"
    assert read_statement("lemma a : True").namespace == ""
    assert read_statement("theorem t : True").signature == ": True"
    assert read_statement("theorem /- r -/ r /- r -/ (r : Nat) : r = r").signature == "/- r -/ (r : Nat) : r = r"


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "theorem",
        "def x : Nat",
        "theorem x : 1 = 1 := rfl",
        "theorem x : True end",
        "theorem x : (True",
        "theorem x : True /-",
        "theorem x : True theorem y : True",
        "theorem (x : Nat) : True",
    ],
)
def test_what_is_no_statement_is_said(statement: str) -> None:
    with pytest.raises(ValueError, match="statement"):
        read_statement(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "theorem run_cmd (pure ())",
        "theorem «axiom» : True",
        "theorem x : sorry",
        "theorem x : by run_tac y",
        "theorem x : True := trivial",
        "axiom x : False",
    ],
)
def test_a_policys_statement_is_judged_like_its_proofs(statement: str) -> None:
    assert refuse_statement(statement) is not None
    assert refuse_statement("theorem x (n : Nat) : n + 0 = n") is None


# ---------------------------------------------------------------- against Lean's own reading

PIECES = ["'", '"', "\\", "{", "}", "--", "/-", "-/", "r", "«", "»", "1", ".", "e5", "é", "ⱼ", " ", "h"]
CANARY = "axiom canary : True universe u"  # the second command ends the first, whatever comes then


@pytest.mark.lean
def test_no_command_hides_in_what_the_gate_lets_through() -> None:
    """Texts in which a command stands, inert as the gate reads them: in a string, a comment, a name. Lean must read them so, too."""
    around = itertools.product(PIECES, PIECES, PIECES, PIECES)
    texts = [f"f {a}{b}{c}{CANARY}{d}" for a, b, c, d in around if d in "\"' -/»"]
    passed = [text for text in texts if refuse_answer(text) is None]
    assert len(passed) > 1000
    backend = FileBackend()
    for start in range(0, len(passed), 200):
        proofs = [f"example : 1 = 2 := (\n{text}\n)" for text in passed[start : start + 200]]
        said = backend.elaborate("", [*proofs, "#check canary"]).messages[-1]
        assert [message.severity for message in said] == ["error"], "one of them has declared the axiom"
