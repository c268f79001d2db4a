"""Propositional and first-order logic: the goal is grown from what the hypotheses give, and its proof with it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from flywheel.contracts import Knob
from flywheel.envs.lean.family import LeanFamily, Made, NoSuchTheoremError

ATOMS = "pqrstuvw"


class Fact(NamedTuple):
    """A proposition that holds, and the term that proves it."""

    formula: str
    term: str


class Propositional(LeanFamily):
    """Implications, conjunctions, disjunctions and negations over a few atoms."""

    family = "propositional"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "depth": Knob(low=1, high=6, default=(1, 3), help="How deeply the goal is built."),
        "num_atoms": Knob(low=2, high=8, default=(3, 4), help="Atomic propositions."),
        "num_hypotheses": Knob(low=1, high=6, default=(2, 3), help="Hypotheses to work with."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem whose goal follows from its hypotheses."""
        atoms = list(ATOMS[: params["num_atoms"]])
        hypotheses = [_hypothesis(atoms, rng) for _ in range(params["num_hypotheses"])]
        facts = _closure([Fact(formula, f"h{at}") for at, formula in enumerate(hypotheses, 1)])
        goal, tactics = _grow(facts, atoms, params["depth"], rng, params["num_hypotheses"])
        if goal in hypotheses:
            raise NoSuchTheoremError("the goal is a hypothesis")
        binders = " ".join(f"(h{at} : {formula})" for at, formula in enumerate(hypotheses, 1))
        return Made(signature=f"({' '.join(atoms)} : Prop) {binders} : {goal}", tactics=tuple(tactics))


def _hypothesis(atoms: list[str], rng: random.Random) -> str:
    a, b, c = (rng.choice(atoms) for _ in range(3))
    return rng.choice([a, f"({a} ∧ {b})", f"({a} → {b})", f"({a} → ({b} ∧ {c}))", f"(({a} ∧ {b}) ∧ {c})", f"({a} ∨ {b})"])


def parts(formula: str) -> tuple[str, str, str] | None:
    """Return a bracketed formula's left side, connective and right side; None for an atom."""
    if not formula.startswith("("):
        return None
    depth = 0
    for at, char in enumerate(formula):
        depth += (char == "(") - (char == ")")
        if depth == 1 and char in "∧∨→↔":
            return formula[1 : at - 1], char, formula[at + 2 : -1]
    return None


def _closure(facts: list[Fact]) -> list[Fact]:
    """Return facts and what they give by taking conjunctions apart and applying implications."""
    known = {fact.formula: fact for fact in reversed(facts)}
    grew = True
    while grew and len(known) < 40:
        grew = False
        for fact in list(known.values()):
            split = parts(fact.formula)
            if split is None:
                continue
            left, connective, right = split
            new = []
            if connective == "∧":
                new = [Fact(left, f"{fact.term}.1"), Fact(right, f"{fact.term}.2")]
            elif connective == "→" and left in known:
                new = [Fact(right, f"({fact.term} {known[left].term})")]
            for one in new:
                if one.formula not in known and len(one.term) < 60:
                    known[one.formula], grew = one, True
    return list(known.values())


def _grow(facts: list[Fact], atoms: list[str], depth: int, rng: random.Random, num_names: int) -> tuple[str, list[str]]:
    """Return a goal that follows from the facts, and its proof."""
    if depth == 0:
        fact = rng.choice(facts)
        return fact.formula, [f"exact {fact.term}"]
    kind = rng.choice(["and", "or", "imp", "imp", "cases", "not"])
    if kind == "and":
        left, first = _grow(facts, atoms, depth - 1, rng, num_names)
        right, second = _grow(facts, atoms, depth - 1, rng, num_names)
        return f"({left} ∧ {right})", ["constructor", *first, *second]
    if kind == "or":
        goal, proof = _grow(facts, atoms, depth - 1, rng, num_names)
        other = rng.choice(atoms)
        if rng.random() < 0.5:
            return f"({goal} ∨ {other})", ["apply Or.inl", *proof]
        return f"({other} ∨ {goal})", ["apply Or.inr", *proof]
    name = f"h{num_names + 1}"
    if kind == "cases":
        disjunctions = [(fact, split) for fact in facts if (split := parts(fact.formula)) and split[1] == "∨"]
        if disjunctions:
            fact, (left, _, right) = rng.choice(disjunctions)
            goal = f"({right} ∨ {left})"
            return goal, [f"apply Or.elim {fact.term}", f"intro {name}", f"exact Or.inr {name}", f"intro {name}", f"exact Or.inl {name}"]
    if kind == "not":
        a = rng.choice(atoms)
        fact = rng.choice(facts)
        return f"((¬ {fact.formula}) → {a})", [f"intro {name}", f"exact absurd {fact.term} {name}"]
    premise = _hypothesis(atoms, rng)
    goal, proof = _grow(_closure([Fact(premise, name), *facts]), atoms, depth - 1, rng, num_names + 1)
    return f"({premise} → {goal})", [f"intro {name}", *proof]


class FirstOrder(LeanFamily):
    """Quantifiers over a type: chains of implications between predicates, under ∀, ∃, ∧, ∨ and ¬."""

    family = "first_order"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "chain": Knob(low=1, high=6, default=(1, 3), help="Implications in a row."),
        "num_spare": Knob(low=0, high=4, default=(0, 1), help="Hypotheses that lead nowhere."),
        "shape": Knob(low=0, high=3, default=(0, 3), help="∀, ∃, ∀ of a conjunction, no counterexample."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem about predicates on a type."""
        chain, spare = params["chain"], params["num_spare"]
        letters = rng.sample("PQRSTUVWXYZABCDEFGHIJKLM", chain + 1 + spare)
        path, others = letters[: chain + 1], letters[chain + 1 :]
        hypotheses = [f"∀ x, {a} x → {b} x" for a, b in pairwise(path)]
        hypotheses += [f"∀ x, {a} x → {rng.choice(path)} x" for a in others]
        order = list(range(len(hypotheses)))
        rng.shuffle(order)
        names = {at: f"h{place + 1}" for place, at in enumerate(order)}
        term = "hx"
        for at in range(chain):
            term = f"({names[at]} x {term})"
        first, last = path[0], path[-1]
        shape = params["shape"]
        if shape == 0:
            goal, tactics = f"∀ x, {first} x → {last} x", ["intro x hx", f"exact {term}"]
        elif shape == 1:
            goal = f"(∃ x, {first} x) → ∃ x, {last} x"
            tactics = ["intro h", "apply Exists.elim h", "intro x hx", f"exact Exists.intro x {term}"]
        elif shape == 2:
            goal, tactics = f"∀ x, {first} x → {last} x ∧ {first} x", ["intro x hx", "constructor", f"exact {term}", "exact hx"]
        else:
            goal = f"(¬ ∃ x, {last} x) → ∀ x, ¬ {first} x"
            tactics = ["intro h x hx", f"exact h (Exists.intro x {term})"]
        binders = " ".join(f"({names[at]} : {hypotheses[at]})" for at in order)
        return Made(signature=f"(α : Type) ({' '.join(sorted(letters))} : α → Prop) {binders} : {goal}", tactics=tuple(tactics))
