"""Equality chains, and functions: injective, surjective, inverse to each other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

from flywheel.contracts import Knob
from flywheel.envs.lean.family import LeanFamily, Made

LETTERS = "abcdegijklmnopqrstuvw"


class Equality(LeanFamily):
    """From some equations, forwards or backwards, under a function or not, to another one."""

    family = "equality"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "chain": Knob(low=2, high=8, default=(2, 4), help="Equations in a row."),
        "num_spare": Knob(low=0, high=5, default=(0, 1), help="Equations that lead nowhere."),
        "nesting": Knob(low=0, high=3, default=(0, 1), help="Functions applied to both sides."),
        "num_flipped": Knob(low=0, high=8, default=(0, 2), help="Equations stated backwards, at most."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem that follows by transitivity, symmetry and congruence."""
        chain, spare = params["chain"], params["num_spare"]
        names = rng.sample(LETTERS, chain + 1 + spare)
        path, others = names[: chain + 1], names[chain + 1 :]
        flipped = set(rng.sample(range(chain), min(chain, params["num_flipped"])))
        equations = [f"{b} = {a}" if at in flipped else f"{a} = {b}" for at, (a, b) in enumerate(pairwise(path))]
        equations += [f"{a} = {rng.choice(path)}" for a in others]
        order = list(range(len(equations)))
        rng.shuffle(order)
        label = {at: f"h{place + 1}" for place, at in enumerate(order)}
        steps = [f"{label[at]}.symm" if at in flipped else label[at] for at in range(chain)]
        term = steps[-1]
        for step in reversed(steps[:-1]):
            term = f"({step}.trans {term})"
        left, right = path[0], path[-1]
        for _ in range(params["nesting"]):
            left, right, term = (
                f"f ({left})" if " " in left else f"f {left}",
                f"f ({right})" if " " in right else f"f {right}",
                f"(congrArg f {term})",
            )
        function = "(f : α → α) " if params["nesting"] else ""
        binders = " ".join(f"({label[at]} : {equations[at]})" for at in order)
        signature = f"(α : Type) {function}({' '.join(sorted(names))} : α) {binders} : {left} = {right}"
        return Made(signature=signature, tactics=(f"exact {term}",))


class Functions(LeanFamily):
    """What composition keeps: injective, surjective, left inverse."""

    family = "functions"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "length": Knob(low=1, high=8, default=(2, 4), help="Functions composed."),
        "num_functions": Knob(low=1, high=5, default=(2, 3), help="Different ones among them, at most."),
        "num_spare": Knob(low=0, high=3, default=(0, 1), help="Hypotheses that lead nowhere."),
        "shape": Knob(low=0, high=2, default=(0, 2), help="Injective, surjective, from a left inverse."),
    }

    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem about a composition of functions of one type to itself."""
        letters = rng.sample("fgkmnuvw", params["num_functions"])
        path = [rng.choice(letters) for _ in range(params["length"])]  # the innermost first
        functions = sorted(set(path))
        label = {function: f"h{at}" for at, function in enumerate(functions, 1)}
        spares = [f"(s{at} : {rng.choice(functions)} c = c)" for at in range(1, params["num_spare"] + 1)]

        def composed(argument: str) -> str:
            for function in path:
                argument = f"{function} {argument}" if " " not in argument else f"{function} ({argument})"
            return argument

        goal, tactics = f"∀ x y, {composed('x')} = {composed('y')} → x = y", ["intro x y e"]
        if params["shape"] == 0:
            hypotheses = [f"({label[function]} : ∀ x y, {function} x = {function} y → x = y)" for function in functions]
            term = "e"
            for function in reversed(path):
                term = f"({label[function]} _ _ {term})"
            tactics.append(f"exact {term}")
        elif params["shape"] == 1:
            hypotheses = [f"({label[function]} : ∀ y, ∃ x, {function} x = y)" for function in functions]
            goal, tactics = f"∀ y, ∃ x, {composed('x')} = y", [f"intro x{len(path)}"]
            for at in range(len(path), 0, -1):
                tactics += [f"apply Exists.elim ({label[path[at - 1]]} x{at})", f"intro x{at - 1} e{at}"]
            term = "e1"
            for at in range(2, len(path) + 1):
                term = f"((congrArg {path[at - 1]} {term}).trans e{at})"
            tactics.append(f"exact Exists.intro x0 {term}")
        else:
            hypotheses = [f"(i : α → α) (h1 : ∀ x, i ({composed('x')}) = x)"]
            tactics.append("exact (h1 x).symm.trans ((congrArg i e).trans (h1 y))")
        point = "(c : α) " if spares else ""
        binders = " ".join([*hypotheses, *spares])
        return Made(signature=f"(α : Type) ({' '.join(functions)} : α → α) {point}{binders} : {goal}", tactics=tuple(tactics))
