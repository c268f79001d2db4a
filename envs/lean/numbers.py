"""Natural numbers by induction, orders on them, and lists."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

from flywheel.contracts import Knob
from flywheel.envs.lean.family import LeanFamily, Made, NoSuchTheoremError

LETTERS = "abcdefgijkl"


class Induction(LeanFamily):
    """A property, a bound or an equation that steps up from its first cases."""

    family = "induction"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "stride": Knob(low=1, high=4, default=(1, 2), help="Cases that a step looks back on."),
        "constant": Knob(low=1, high=9, default=(1, 4), help="What a step adds."),
        "start": Knob(low=0, high=9, default=(0, 4), help="The first case."),
        "shape": Knob(low=0, high=2, default=(0, 2), help="A property, a bound, an equation of two sequences."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem for all natural numbers."""
        make = (self._property, self._bound, self._sequences)[params["shape"]]
        return make(params["stride"], params["constant"], params["start"], rng)

    def _property(self, stride: int, constant: int, start: int, rng: random.Random) -> Made:
        before = " → ".join(_at("P", "n", at) for at in range(stride))
        bases = " ".join(f"(h{at} : P {start + at})" for at in range(stride))
        signature = f"(P : Nat → Prop) {bases} (hs : ∀ n, {before} → P (n + {stride})) : ∀ n, P ({start} + n)"
        held = " ∧ ".join(_at("P", f"{start} + m", at) for at in range(stride))
        given = [_component("ih", at, stride) for at in range(stride)]
        step = _conjunction([*given[1:], f"(hs ({start} + k) {' '.join(given)})"])
        lines = [
            f"have all : ∀ m, {held} := by",
            "  intro m",
            "  induction m with",
            f"  | zero => exact {_conjunction([f'h{at}' for at in range(stride)])}",
            f"  | succ k ih => exact {step}",
        ]
        return Made(signature=signature, tactics=("intro n", "\n".join(lines), f"exact {_component('(all n)', 0, stride)}"))

    def _bound(self, stride: int, constant: int, start: int, rng: random.Random) -> Made:
        up = rng.random() < 0.5
        relation = f"f n + {constant} ≤ f (n + 1)" if up else "f n ≤ f (n + 1)"
        term = f"Nat.le_trans (Nat.le_add_right _ {constant}) (h ({start} + k))" if up else f"h ({start} + k)"
        lines = ["induction n with", "| zero => exact Nat.le_refl _", f"| succ k ih => exact Nat.le_trans ih ({term})"]
        signature = f"(f : Nat → Nat) (h : ∀ n, {relation}) : ∀ n, f {start} ≤ f ({start} + n)"
        return Made(signature=signature, tactics=("intro n", "\n".join(lines)))

    def _sequences(self, stride: int, constant: int, start: int, rng: random.Random) -> Made:
        signature = (
            f"(f g : Nat → Nat) (h0 : f {start} = g {start}) (hf : ∀ n, f (n + 1) = f n + {constant}) "
            f"(hg : ∀ n, g (n + 1) = g n + {constant}) : ∀ n, f ({start} + n) = g ({start} + n)"
        )
        at = f"({start} + k)"
        term = f"(hf {at}).trans ((congrArg (fun m => m + {constant}) ih).trans (hg {at}).symm)"
        lines = ["induction n with", "| zero => exact h0", f"| succ k ih => exact {term}"]
        return Made(signature=signature, tactics=("intro n", "\n".join(lines)))


def _at(predicate: str, variable: str, offset: int) -> str:
    argument = f"{variable} + {offset}" if offset else variable
    return f"{predicate} ({argument})" if " " in argument else f"{predicate} {argument}"


def _conjunction(terms: list[str]) -> str:
    return terms[0] if len(terms) == 1 else f"⟨{', '.join(terms)}⟩"


def _component(term: str, at: int, count: int) -> str:
    if count == 1:
        return term
    return term + ".2" * at + (".1" if at < count - 1 else "")


class Orders(LeanFamily):
    """Chains of ≤ and < between natural numbers."""

    family = "orders"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "chain": Knob(low=2, high=8, default=(2, 4), help="Inequalities in a row."),
        "num_strict": Knob(low=0, high=8, default=(0, 2), help="Strict ones among them, at most."),
        "num_spare": Knob(low=0, high=5, default=(0, 1), help="Inequalities that lead nowhere."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem that follows by transitivity."""
        chain, spare = params["chain"], params["num_spare"]
        names = rng.sample(LETTERS, min(len(LETTERS), chain + 1 + spare))
        path, others = names[: chain + 1], names[chain + 1 :]
        strict = set(rng.sample(range(chain), min(chain, params["num_strict"])))
        given = [f"{a} {'<' if at in strict else '≤'} {b}" for at, (a, b) in enumerate(pairwise(path))]
        given += [f"{rng.choice(path)} ≤ {a}" for a in others]
        order = list(range(len(given)))
        rng.shuffle(order)
        label = {at: f"h{place + 1}" for place, at in enumerate(order)}
        term, is_strict = label[0], 0 in strict
        for at in range(1, chain):
            lemma = {
                (False, False): "Nat.le_trans",
                (True, False): "Nat.lt_of_lt_of_le",
                (False, True): "Nat.lt_of_le_of_lt",
                (True, True): "Nat.lt_trans",
            }[is_strict, at in strict]
            term, is_strict = f"({lemma} {term} {label[at]})", is_strict or at in strict
        relation = "<" if is_strict else "≤"
        if is_strict and rng.random() < 0.5:
            relation, term = "≤", f"(Nat.le_of_lt {term})"
        binders = " ".join(f"({label[at]} : {given[at]})" for at in order)
        signature = f"({' '.join(sorted(names))} : Nat) {binders} : {path[0]} {relation} {path[-1]}"
        return Made(signature=signature, tactics=(f"exact {term}",))


class Lists(LeanFamily):
    """Appending lists in any order of brackets, with empty ones between, and the lengths of what comes out."""

    family = "lists"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_lists": Knob(low=2, high=8, default=(3, 4), help="Lists appended."),
        "num_empty": Knob(low=0, high=4, default=(0, 1), help="Empty lists among them."),
        "shape": Knob(low=0, high=1, default=(0, 1), help="The lists themselves, or their lengths in another order."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem about `++` that simp proves from its named lemmas alone."""
        names = sorted(rng.sample(LETTERS, params["num_lists"]))
        sides = []
        for side in range(2):
            items = list(names)
            if side and params["shape"]:
                rng.shuffle(items)
            for _ in range(params["num_empty"]):
                items.insert(rng.randint(0, len(items)), "[]")
            sides.append(_bracketed(items, rng))
        left, right = sides
        if left == right:
            raise NoSuchTheoremError("both sides are the same")
        lemmas = "List.append_assoc, List.nil_append, List.append_nil"
        if params["shape"]:
            left, right = f"({left}).length", f"({right}).length"
            lemmas = "List.length_append, List.length_nil, Nat.zero_add, Nat.add_zero, Nat.add_comm, Nat.add_assoc, Nat.add_left_comm"
        return Made(signature=f"(α : Type) ({' '.join(names)} : List α) : {left} = {right}", tactics=(f"simp only [{lemmas}]",))


def _bracketed(items: list[str], rng: random.Random) -> str:
    if len(items) == 1:
        return items[0]
    at = rng.randint(1, len(items) - 1)
    sides = [_bracketed(part, rng) for part in (items[:at], items[at:])]
    return " ++ ".join(f"({side})" if " " in side else side for side in sides)
