"""Documents as blocks of text: Markdown by markdown-it, PDF by pypdf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from pypdf import PdfReader

from flywheel.errors import ConfigError

MIN_CHARS, MAX_CHARS = 200, 3000
SUFFIXES = (".md", ".markdown", ".pdf")


def document_blocks(path: Path) -> list[str]:
    """Return a document's blocks of `MIN_CHARS` to about `MAX_CHARS` characters, in order; shorter neighbours are put together.

    Raises:
        ConfigError: it can't be read, or holds no text.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: expected a document that ends in {', '.join(SUFFIXES)}")
    try:
        pieces = _pdf(path) if path.suffix.lower() == ".pdf" else _markdown(path.read_text("utf-8"))
        blocks = _joined(pieces)
    except Exception as error:  # pypdf raises all sorts of things over what is damaged or encrypted
        raise ConfigError(f"{path}: can't be read: {error}") from error
    if not blocks:
        raise ConfigError(f"{path}: no text of {MIN_CHARS} characters in it; is it a scan?")
    return blocks


def _markdown(text: str) -> Iterator[str]:
    """Yield the source of every top-level block: a heading, a paragraph, a list, a table, a piece of code."""
    lines = re.split(r"\r\n|\r|\n", text)  # the line ends that the parser counts
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.level == 0 and token.map is not None and token.nesting >= 0:
            yield "\n".join(lines[token.map[0] : token.map[1]]).strip()


def _pdf(path: Path) -> Iterator[str]:
    """Yield the paragraphs of every page: lines that follow each other without an empty one between them."""
    for page in PdfReader(path).pages:
        for paragraph in page.extract_text().split("\n\n"):
            if piece := paragraph.strip():
                yield piece


def _joined(pieces: Iterator[str]) -> list[str]:
    blocks: list[str] = []
    short = ""
    for piece in pieces:
        block = f"{short}\n\n{piece}".strip()
        while len(block) > MAX_CHARS:
            blocks.append(block[:MAX_CHARS])
            block = block[MAX_CHARS:].strip()
        short = block if len(block) < MIN_CHARS else ""
        if block and not short:
            blocks.append(block)
    if short and blocks:
        blocks[-1] += f"\n\n{short}"
    return blocks
