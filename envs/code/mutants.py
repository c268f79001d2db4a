"""Small wrong versions of a function, for asking whether its tests would notice."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
_CHANGEABLE = (
    *(ast.Compare, ast.BinOp, ast.BoolOp, ast.Constant, ast.IfExp),
    *(ast.If, ast.While, ast.For, ast.Return, ast.FunctionDef),
)


def mutants(source: str) -> list[str]:
    """Return every mutant of one small change, each different from the source; none where it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    original = ast.unparse(tree)
    found: dict[str, None] = {}
    for number, node in enumerate(ast.walk(tree)):
        if not isinstance(node, _CHANGEABLE):
            continue  # every change copies the whole tree
        for changed in _changes(tree, number):
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text != original:
                found[text] = None
    return list(found)


def _changes(tree: ast.Module, number: int) -> Iterator[ast.Module]:
    """Yield copies of a tree in which node `number` of the walk is changed."""

    def fresh() -> tuple[ast.Module, ast.AST]:
        whole = copy.deepcopy(tree)
        return whole, next(node for at, node in enumerate(ast.walk(whole)) if at == number)

    whole, node = fresh()
    if isinstance(node, ast.Compare):
        node.ops = [_COMPARE.get(type(op), type(op))() for op in node.ops]
        yield whole
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        node.op = _ARITHMETIC[type(node.op)]()
        yield whole
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield whole
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
        yield whole
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        node.value += 1
        yield whole
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        node.value = node.value + "_"
        yield whole
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
        yield whole
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(value=None)
        yield whole
    if isinstance(node, ast.FunctionDef | ast.For | ast.While | ast.If):
        for at, statement in enumerate(node.body):
            whole, node = fresh()
            if isinstance(node, ast.FunctionDef | ast.For | ast.While | ast.If) and not isinstance(statement, ast.FunctionDef):
                node.body[at] = ast.Pass()
                yield whole
