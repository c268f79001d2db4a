"""Writes a small project as LeanDojo leaves it on disk after tracing: sources in a git repository, and a ``.trace.xml`` for each."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

SOURCE = """\
namespace Demo

/-- Swaps. -/
@[simp]
theorem swap (p q : Prop) (h : p ∧ q) : q ∧ p := by
  constructor -- two goals
  exact h.2
  exact h.1

theorem same (n : Nat) : n = n := rfl

theorem open_end (n : Nat) : n = n := sorry

theorem by_cases : (n : Nat) → n = n
  | 0 => rfl
  | _ + 1 => rfl

end Demo
"""
STATES = ["p q : Prop\nh : p ∧ q\n⊢ q ∧ p", "case left\n⊢ q\n\ncase right\n⊢ p", "case right\n⊢ p", "no goals"]


class Tree:
    """Builds nodes over a source, whose places are found in order."""

    def __init__(self, source: str = SOURCE) -> None:
        self.source, self.at = source, 0

    def place(self, text: str) -> tuple[str, str]:
        """Return where the next occurrence of a text begins and ends, as (line, column) from 1."""
        start = self.source.index(text, self.at)
        self.at = start + len(text)
        return self.position(start), self.position(self.at)

    def position(self, at: int) -> str:
        """Return a place in the source."""
        line = self.source.count("\n", 0, at) + 1
        return str((line, at - self.source.rfind("\n", 0, at)))

    def leaf(
        self, parent: ElementTree.Element, text: str, kind: str = "AtomNode", *, trailing: str = " ", **more: str
    ) -> ElementTree.Element:
        """Add a token."""
        start, end = self.place(text)
        value = {"raw_val": text} if kind == "IdentNode" else {}
        attributes = {"start": start, "end": end, "leading": "", "trailing": trailing, "val": text, **value, **more}
        return ElementTree.SubElement(parent, kind, attributes)


def node(parent: ElementTree.Element, tag: str, /, **fields: str) -> ElementTree.Element:
    """Add a node whose place is set when it is closed."""
    return ElementTree.SubElement(parent, tag, fields)


def close(element: ElementTree.Element) -> None:
    """Give a node, and those in it, the places that their first and last tokens have."""
    for child in element:
        close(child)
    placed = [child for child in element if "start" in child.attrib]
    if placed and "start" not in element.attrib:
        element.set("start", placed[0].attrib["start"])
        element.set("end", placed[-1].attrib["end"])


def theorem(
    tree: Tree, file: ElementTree.Element, name: str, signature: str, *, modifiers: tuple[str, ...] = (), space: str = "Demo."
) -> ElementTree.Element:
    """Add a declaration up to its proof; return the theorem's node."""
    declaration = node(file, "CommandDeclarationNode", name=name, full_name=f"{space}{name}")
    described = node(declaration, "CommandDeclmodifiersNode")
    for modifier in modifiers:
        if modifier.startswith("/--"):
            start, end = tree.place(modifier)
            node(described, "CommandDoccommentNode", start=start, end=end, comment=modifier)
        else:
            tree.leaf(described, modifier)
    stated = node(declaration, "CommandTheoremNode", name=name, full_name=f"{space}{name}")
    tree.leaf(stated, "theorem")
    tree.leaf(node(stated, "CommandDeclidNode"), name, "IdentNode")
    tree.leaf(node(stated, "CommandDeclsigNode"), signature)
    return stated


def build() -> ElementTree.Element:
    """Return the source's syntax tree as LeanDojo keeps it."""
    tree = Tree()
    file = ElementTree.Element("FileNode", start="(1, 1)", end=tree.position(len(SOURCE)))
    space = node(file, "CommandNamespaceNode", name="Demo")
    tree.leaf(space, "namespace")
    tree.leaf(space, "Demo", "IdentNode")

    swap = theorem(tree, file, "swap", "(p q : Prop) (h : p ∧ q) : q ∧ p", modifiers=("/-- Swaps. -/", "@[simp]"))
    value = node(swap, "CommandDeclvalsimpleNode")
    tree.leaf(value, ":=")
    by = node(value, "TermBytacticNode")
    tree.leaf(by, "by")
    steps = node(node(node(by, "TacticTacticseqNode"), "TacticTacticseq1IndentedNode"), "NullNode")
    texts = ("constructor", "exact h.2", "exact h.1")
    for at, text in enumerate(texts):
        if at:
            node(steps, "NullNode")
        step = node(steps, "OtherNode", kind="Lean.Parser.Tactic.x", state_before=STATES[at], state_after=STATES[at + 1], tactic=text)
        if text == "constructor":
            tree.leaf(step, text, trailing=" -- two goals\n  ")
        else:
            tree.leaf(step, "exact")
            tree.leaf(step, text.split()[1], "IdentNode", full_name="And.right" if text.endswith("2") else "And.left")

    same = theorem(tree, file, "same", "(n : Nat) : n = n")
    value = node(same, "CommandDeclvalsimpleNode")
    tree.leaf(value, ":=")
    tree.leaf(value, "rfl", "IdentNode", full_name="rfl")

    left = theorem(tree, file, "open_end", "(n : Nat) : n = n")
    value = node(left, "CommandDeclvalsimpleNode")
    tree.leaf(value, ":=")
    tree.leaf(value, "sorry")

    cases = theorem(tree, file, "by_cases", ": (n : Nat) → n = n")
    tree.leaf(node(cases, "CommandDeclvaleqnsNode"), "| 0 => rfl\n  | _ + 1 => rfl")

    end = node(file, "CommandEndNode", name="Demo")
    tree.leaf(end, "end")
    tree.leaf(node(end, "NullNode"), "Demo", "IdentNode")
    close(file)
    return file


def as_json(element: ElementTree.Element, source: str) -> dict[str, Any]:
    """Return a node as ``ExtractData.lean`` writes it before LeanDojo reads it for the first time."""
    if element.tag in ("AtomNode", "IdentNode"):
        places = [offset(source, element.attrib[name]) for name in ("start", "end")]
        info = {"original": {"leading": "", "pos": places[0], "trailing": element.attrib["trailing"], "endPos": places[1]}}
        value = element.attrib["val"]
        if element.tag == "AtomNode":
            return {"atom": {"info": info, "val": value}}
        return {"ident": {"info": info, "rawVal": value, "val": value, "preresolved": []}}
    name = element.tag.removesuffix("Node")
    group = next((group for group in ("Command", "Tactic", "Term", "Module") if name.startswith(group)), "")
    kind = f"Lean.Parser.{group}.{name.removeprefix(group)}" if group else element.attrib.get("kind", name.lower())
    return {"node": {"info": "none", "kind": kind, "args": [as_json(child, source) for child in element]}}


def offset(source: str, place: str) -> int:
    """Return a place as a number of bytes from the source's beginning."""
    line, column = (int(part) for part in place.strip("()").split(","))
    lines = source.split("\n")
    return sum(len(text.encode()) + 1 for text in lines[: line - 1]) + len(lines[line - 1][: column - 1].encode())


def write_plain(folder: Path, theorems: dict[str, tuple[str, tuple[str, ...]]]) -> Path:
    """Write a project of theorems by tactics and both forms of its trace; return its folder.

    Args:
        folder: Where.
        theorems: By name, the signature and the tactics.
    """
    source = "\n".join(
        f"theorem {name} {signature} := by\n" + "".join(f"  {tactic}\n" for tactic in tactics)
        for name, (signature, tactics) in theorems.items()
    )
    tree = Tree(source)
    file = ElementTree.Element("FileNode", start="(1, 1)", end=tree.position(len(source)))
    for name, (signature, tactics) in theorems.items():
        stated = theorem(tree, file, name, signature, space="")
        value = node(stated, "CommandDeclvalsimpleNode")
        tree.leaf(value, ":=")
        by = node(value, "TermBytacticNode")
        tree.leaf(by, "by")
        steps = node(node(node(by, "TacticTacticseqNode"), "TacticTacticseq1IndentedNode"), "NullNode")
        for at, tactic in enumerate(tactics):
            if at:
                node(steps, "NullNode")
            tree.leaf(node(steps, "OtherNode", kind="Lean.Parser.Tactic.x"), tactic)
    close(file)
    project = write_project(folder, source, file, ())
    header = {"node": {"info": "none", "kind": "Lean.Parser.Module.header", "args": []}}
    data = {"commandASTs": [header, *(as_json(child, source) for child in file)], "tactics": [], "premises": []}
    traces = project / ".lake" / "build" / "ir"
    (traces / "Demo.ast.json").write_text(json.dumps(data), encoding="utf-8")
    (traces / "Demo.dep_paths").write_text("\n")
    (project / "Lean4Repl.lean").touch()
    return project


def write_project(folder: Path, source: str, file: ElementTree.Element, comments: tuple[str, ...]) -> Path:
    """Write a project and its trace; return its folder."""
    project = folder / "demo"
    traces = project / ".lake" / "build" / "ir"
    traces.mkdir(parents=True)
    (project / "Demo.lean").write_text(source, encoding="utf-8")
    (project / "lean-toolchain").write_text("leanprover/lean4:v4.20.0\n")
    (project / "lakefile.toml").write_text('name = "demo"\n')
    root = ElementTree.Element("TracedFile", path="Demo.lean", md5=hashlib.md5(source.encode()).hexdigest())
    root.append(file)
    listed = ElementTree.SubElement(root, "Comments")
    for comment in comments:
        start, end = Tree(source).place(comment)
        ElementTree.SubElement(listed, "Comment", start=start, end=end, text=comment)
    ElementTree.ElementTree(root).write(traces / "Demo.trace.xml", encoding="utf-8", xml_declaration=True)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "demo"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=project, check=True)
    return project


def write_trace(folder: Path) -> Path:
    """Write the project of `SOURCE` and its trace; return its folder."""
    return write_project(folder, SOURCE, build(), ("-- two goals",))
