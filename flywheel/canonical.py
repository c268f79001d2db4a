"""Canonical forms: what stays of a text when spelling, layout and names that don't matter are taken away."""

from __future__ import annotations

import ast
import builtins
import re

_BUILTINS = frozenset(dir(builtins))


def words(text: str) -> list[str]:
    """Return the words and symbols of prose, lower-cased."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def normalised_code(source: str) -> str:
    """Return Python source without comments, docstrings, annotations, layout and the author's choice of names.

    Names are numbered in the order in which they occur; built-in names, attributes and keywords stay. Source that does not parse is
    returned with its whitespace squeezed.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return " ".join(source.split())
    return ast.dump(_Renamed().visit(tree))


def normalised_lean(statement: str) -> str:
    """Return a Lean statement without comments, its own name, and the layout."""
    text = re.sub(r"/-.*?-/", " ", statement, flags=re.S)
    text = re.sub(r"--[^\n]*", " ", text)
    text = re.sub(r"^\s*(?:(?:private|protected|noncomputable)\s+)*(theorem|lemma|example)\s+(?![({\[:])\S+", "theorem", text)
    text = re.sub(r"^\s*(?:theorem|lemma|example)\b", "theorem", text)
    return " ".join(re.sub(r"([()\[\]{},:])", r" \1 ", text).split())


class _Renamed(ast.NodeTransformer):
    """Numbers names in the order of a walk, and drops what does not run."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def _name(self, name: str) -> str:
        return name if name in _BUILTINS else self._names.setdefault(name, f"n{len(self._names)}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(id=self._name(node.id), ctx=node.ctx), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(arg=self._name(node.arg), annotation=None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.visit(ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno))  # type: ignore[no-any-return]

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) -> None:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._body(node)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._name(node.name)
        self._body(node)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._name(node.name), None
        self._body(node)
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.name, node.returns = self._name(node.name), None
        self._body(node)
        return self.generic_visit(node)
