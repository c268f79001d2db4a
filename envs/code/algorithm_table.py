"""The algorithms that tasks are built around: what is said of each, its code, and how it is often got wrong.

``{k}`` stands for a constant. Code is lines of a function body that read the arguments and leave their result in the variable that
the result's type names: `n` for a number, `xs` for a list. `slips` are replacements that make a near miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flywheel.envs.code.steps import Draw, number


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """One algorithm, easier ones first in their table."""

    name: str
    phrase: str
    code: str
    gives: Literal["number", "list"] = "number"
    draw: Draw | None = None
    slips: tuple[tuple[str, str], ...] = ()


LISTS = (
    Core(
        name="longest_run",
        phrase="length of the longest run of equal neighbours",
        code="n = run = 0\nfor i, x in enumerate(xs):\n    run = run + 1 if i and xs[i - 1] == x else 1\n    n = max(n, run)",
        slips=(("max(n, run)", "run"), ("else 1", "else 0")),
    ),
    Core(
        name="prefix_sums",
        phrase="running sums",
        code="total, out = 0, []\nfor x in xs:\n    total += x\n    out.append(total)\nxs = out",
        gives="list",
        slips=(("    total += x\n    out.append(total)", "    out.append(total)\n    total += x"),),
    ),
    Core(
        name="pairs",
        phrase="number of pairs of positions whose items sum to {k}",
        code="n = sum(xs[i] + xs[j] == {k} for i in range(len(xs)) for j in range(i))",
        draw=number(2),
        slips=(("range(i)", "range(i + 1)"), ("== {k}", "<= {k}")),
    ),
    Core(
        name="inversions",
        phrase="number of pairs that stand in the wrong order for a rising sort",
        code="n = sum(xs[j] > xs[i] for i in range(len(xs)) for j in range(i))",
        slips=(("xs[j] > xs[i]", "xs[j] >= xs[i]"), ("xs[j] > xs[i]", "xs[j] < xs[i]")),
    ),
    Core(
        name="sort_by_remainder",
        phrase="sort by remainder by {k}, then by value",
        code="xs = sorted(xs, key=lambda x: (x % {k}, x))",
        gives="list",
        draw=number(2),
        slips=((", x)", ", -x)"), ("(x % {k}, x)", "x % {k}")),
    ),
    Core(
        name="sort_by_count",
        phrase="distinct items, most frequent first, then by value",
        code="xs = sorted(set(xs), key=lambda x: (-xs.count(x), x))",
        gives="list",
        slips=(("-xs.count(x)", "xs.count(x)"), (", x)", ", -x)")),
    ),
    Core(
        name="max_subarray",
        phrase="largest sum of neighbours, at least 0",
        code="n = run = 0\nfor x in xs:\n    run = max(0, run + x)\n    n = max(n, run)",
        slips=(("max(0, run + x)", "run + x"), ("max(n, run)", "run")),
    ),
    Core(
        name="best_trade",
        phrase="largest rise from an item to a later one, at least 0",
        code="n = 0\nfor i in range(len(xs)):\n    for j in range(i):\n        n = max(n, xs[i] - xs[j])",
        slips=(("xs[i] - xs[j]", "abs(xs[i] - xs[j])"), ("range(i)", "range(i - 1, i)")),
    ),
    Core(
        name="next_greater",
        phrase="for each item the next larger one to its right, or -1",
        code="xs = [next((y for y in xs[i + 1 :] if y > x), -1) for i, x in enumerate(xs)]",
        gives="list",
        slips=(("y > x", "y >= x"), ("next((y for y in xs[i + 1 :] if y > x), -1)", "max((y for y in xs[i + 1 :] if y > x), default=-1)")),
    ),
    Core(
        name="no_neighbours",
        phrase="largest sum of items no two of which are neighbours, at least 0",
        code="n = before = 0\nfor x in xs:\n    n, before = max(n, before + x), n",
        slips=(("max(n, before + x), n", "max(n, n + x), n"), ("before + x", "before + max(x, 1)")),
    ),
    Core(
        name="rising_subsequence",
        phrase="length of the longest rising subsequence",
        code=(
            "best = [1] * len(xs)\nfor i in range(len(xs)):\n    for j in range(i):\n        if xs[j] < xs[i]:\n"
            "            best[i] = max(best[i], best[j] + 1)\nn = max(best, default=0)"
        ),
        slips=(("xs[j] < xs[i]", "xs[j] <= xs[i]"), ("range(i)", "range(i - 1, i)")),
    ),
    Core(
        name="common_with_reverse",
        phrase="length of the longest common subsequence with its reverse",
        code=(
            "row = [0] * (len(xs) + 1)\nfor x in xs:\n    last = row[:]\n    for j, y in enumerate(xs[::-1]):\n"
            "        row[j + 1] = last[j] + 1 if x == y else max(row[j], last[j + 1])\nn = row[-1]"
        ),
        slips=(("max(row[j], last[j + 1])", "0"), ("xs[::-1]", "xs")),
    ),
    Core(
        name="coin_ways",
        phrase="number of ways to pay {k} with the distinct positive items as coins",
        code=(
            "ways = [1] + [0] * {k}\nfor coin in sorted({{x for x in xs if x > 0}}):\n    for total in range(coin, {k} + 1):\n"
            "        ways[total] += ways[total - coin]\nn = ways[{k}]"
        ),
        draw=number(4),
        slips=(("range(coin, {k} + 1)", "range({k}, coin - 1, -1)"), ("sorted({{x for x in xs if x > 0}})", "[x for x in xs if x > 0]")),
    ),
    Core(
        name="fewest_coins",
        phrase="fewest items that pay {k}, each usable any number of times if positive, or -1",
        code=(
            "least = [0] + [99] * {k}\nfor total in range(1, {k} + 1):\n"
            "    least[total] = min([least[total - x] + 1 for x in xs if 0 < x <= total], default=99)\n"
            "n = least[{k}] if least[{k}] < 99 else -1"
        ),
        draw=number(5),
        slips=(("0 < x <= total", "0 < x < total"), ("if least[{k}] < 99 else -1", "")),
    ),
    Core(
        name="subsets",
        phrase="number of subsets of positions whose items sum to {k}",
        code=(
            "sums = {{0: 1}}\nfor x in xs:\n    new = dict(sums)\n    for total, count in sums.items():\n"
            "        new[total + x] = new.get(total + x, 0) + count\n    sums = new\nn = sums.get({k}, 0)"
        ),
        draw=number(1),
        slips=(("new.get(total + x, 0) + count", "1"),),
    ),
)

# Arguments: the number of nodes `n`, and `edges`, pairs of nodes from 0 to n - 1.
GRAPHS = (
    Core(
        name="degrees",
        phrase="number of edges at each node",
        code="xs = [sum(node in edge for edge in edges) for node in range(n)]",
        gives="list",
        slips=(("node in edge", "node == edge[0]"),),
    ),
    Core(
        name="components",
        phrase="number of components",
        code=(
            "root = list(range(n))\nfor a, b in edges:\n    a, b = root[a], root[b]\n    root = [a if r == b else r for r in root]\n"
            "n = len(set(root))"
        ),
        slips=(("len(set(root))", "n - len(edges)"),),
    ),
    Core(
        name="largest_component",
        phrase="nodes of the largest component",
        code=(
            "root = list(range(n))\nfor a, b in edges:\n    a, b = root[a], root[b]\n    root = [a if r == b else r for r in root]\n"
            "n = max(root.count(r) for r in root)"
        ),
        slips=(("max(", "min("),),
    ),
    Core(
        name="distances",
        phrase="fewest edges from node 0 to each node, or -1",
        code=(
            "far = [0] + [-1] * (n - 1)\nqueue = [0]\nfor a in queue:\n    for edge in edges:\n        for x, y in (edge, edge[::-1]):\n"
            "            if x == a and far[y] < 0:\n                far[y] = far[a] + 1\n                queue.append(y)\nxs = far"
        ),
        gives="list",
        slips=(("(edge, edge[::-1])", "(edge,)"), ("[-1] * (n - 1)", "[-2] * (n - 1)")),
    ),
    Core(
        name="reachable",
        phrase="number of nodes that can be reached from node 0 along the edges' direction",
        code=(
            "seen = [0]\nfor a in seen:\n    for x, y in edges:\n        if x == a and y not in seen:\n            seen.append(y)\n"
            "n = len(seen)"
        ),
        slips=(("x == a and y not in seen", "y not in seen"), ("len(seen)", "len(seen) - 1")),
    ),
    Core(
        name="spanning_weight",
        phrase="least total weight that keeps every component connected, where an edge weighs its nodes' difference",
        code=(
            "root, total = list(range(n)), 0\nfor a, b in sorted(edges, key=lambda e: abs(e[0] - e[1])):\n    if root[a] != root[b]:\n"
            "        total += abs(a - b)\n        root = [root[a] if r == root[b] else r for r in root]\nn = total"
        ),
        slips=(("sorted(edges, key=lambda e: abs(e[0] - e[1]))", "edges"), ("total += abs(a - b)", "total += 1")),
    ),
    Core(
        name="topological",
        phrase="topological order along the edges' direction, smallest node first, as far as it goes",
        code=(
            "order = []\nfor _ in range(n):\n    left = [b for b in range(n) if b not in order]\n"
            "    free = [b for b in left if all(x in order for x, y in edges if y == b)]\n    order += free[:1]\nxs = order"
        ),
        gives="list",
        slips=(("free[:1]", "free[-1:]"), ("free[:1]", "free")),
    ),
    Core(
        name="triangles",
        phrase="number of triangles",
        code=(
            "near = {{(x, y) for x, y in edges}} | {{(y, x) for x, y in edges}}\n"
            "n = sum((a, b) in near and (b, c) in near and (a, c) in near for c in range(n) for b in range(c) for a in range(b))"
        ),
        slips=((" and (a, c) in near", ""),),
    ),
)

# Arguments: the texts `s` and `t`.
TEXTS = (
    Core(
        name="common_letters",
        phrase="number of letters that s and t have in common, with repeats",
        code="n = sum(min(s.count(c), t.count(c)) for c in set(s))",
        slips=(("min(s.count(c), t.count(c))", "(c in t)"), ("set(s)", "s")),
    ),
    Core(
        name="common_substring",
        phrase="length of the longest common substring of s and t",
        code="n = max((j - i for i in range(len(s)) for j in range(i, len(s) + 1) if s[i:j] in t), default=0)",
        slips=(("if s[i:j] in t", "if set(s[i:j]) <= set(t)"),),
    ),
    Core(
        name="common_subsequence",
        phrase="length of the longest common subsequence of s and t",
        code=(
            "row = [0] * (len(t) + 1)\nfor x in s:\n    last = row[:]\n    for j, y in enumerate(t):\n"
            "        row[j + 1] = last[j] + 1 if x == y else max(row[j], last[j + 1])\nn = row[-1]"
        ),
        slips=(("max(row[j], last[j + 1])", "0"), ("last[j] + 1 if", "row[j] + 1 if")),
    ),
    Core(
        name="edit_distance",
        phrase="edit distance of s and t, where a substitution costs {k}",
        code=(
            "row = list(range(len(t) + 1))\nfor i, x in enumerate(s):\n    last, row = row, [i + 1]\n    for j, y in enumerate(t):\n"
            "        row.append(min(row[j] + 1, last[j + 1] + 1, last[j] + (x != y) * {k}))\nn = row[-1]"
        ),
        draw=number(1, 2),
        slips=(("(x != y) * {k}", "{k}"), ("row[j] + 1, ", "")),
    ),
    Core(
        name="occurrences",
        phrase="number of ways to strike letters out of s so that the first {k} letters of t remain",
        code=(
            "ways = [1] + [0] * len(t[:{k}])\nfor x in s:\n    for j in range(len(ways) - 1, 0, -1):\n        if t[j - 1] == x:\n"
            "            ways[j] += ways[j - 1]\nn = ways[-1]"
        ),
        draw=number(1, 4),
        slips=(("range(len(ways) - 1, 0, -1)", "range(1, len(ways))"),),
    ),
)

# Argument: a number `n`.
NUMBERS = (
    Core(
        name="gcd",
        phrase="greatest common divisor with {k}",
        code="a, b = abs(n), {k}\nwhile b:\n    a, b = b, a % b\nn = a",
        draw=number(6),
        slips=(("abs(n), {k}", "abs(n) + 1, {k}"), ("n = a", "n = a * {k}")),
    ),
    Core(
        name="base_digits",
        phrase="digits of its absolute value in base {k}, lowest first",
        code="n, xs = abs(n), []\nwhile n:\n    xs.append(n % {k})\n    n //= {k}",
        gives="list",
        draw=number(2),
        slips=(("xs.append(n % {k})", "xs.insert(0, n % {k})"),),
    ),
    Core(
        name="divisors",
        phrase="number of divisors of its absolute value",
        code="m = abs(n)\nn = sum(1 + (d * d < m) for d in range(1, int(m**0.5) + 1) if m % d == 0)",
        slips=(("1 + (d * d < m)", "2"), ("range(1,", "range(2,")),
    ),
    Core(
        name="prime_factors",
        phrase="prime factors of its absolute value, rising, with repeats",
        code=(
            "m, d, xs = abs(n), 2, []\nwhile m > 1 and d * d <= m:\n    if m % d:\n        d += 1\n    else:\n        xs.append(d)\n"
            "        m //= d\nxs += [m] * (m > 1)"
        ),
        gives="list",
        slips=(("xs += [m] * (m > 1)", ""), ("d * d <= m", "d * d < m")),
    ),
    Core(
        name="power",
        phrase="2 to its absolute value, modulo {k}",
        code="n = pow(2, abs(n), {k})",
        draw=number(3),
        slips=(("pow(2, abs(n), {k})", "pow(abs(n), 2, {k})"),),
    ),
    Core(
        name="fibonacci",
        phrase="the Fibonacci number (0, 1, 1, 2, …) at its absolute value modulo 30, modulo {k}",
        code="a, b = 0, 1\nfor _ in range(abs(n) % 30):\n    a, b = b, a + b\nn = a % {k}",
        draw=number(3),
        slips=(("a, b = 0, 1", "a, b = 1, 1"),),
    ),
    Core(
        name="collatz",
        phrase="Collatz steps (halve what is even, 3n + 1 of what is odd) from its absolute value plus 1 down to 1",
        code="m, n = abs(n) + 1, 0\nwhile m > 1:\n    m = 3 * m + 1 if m % 2 else m // 2\n    n += 1",
        slips=(("abs(n) + 1, 0", "abs(n) + 1, 1"), ("abs(n) + 1, 0", "abs(n) + 2, 0")),
    ),
)
