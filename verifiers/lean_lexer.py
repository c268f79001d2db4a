"""Reads Lean 4 text into words and symbols, as Lean itself would, or refuses it: never two ways.

It knows nested block comments, strings with escapes, raw strings, characters, «quoted» names and what counts as a letter. Where Lean's
versions differ, or where what a text means depends on notation that the reader can't know, the text is refused: what is a comment or a
string here must be one there. That holds behind an error too, where Lean reads on from wherever it stood, even from within a literal that
it could not read, and runs every command that it finds.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Kind = Literal["word", "number", "symbol", "literal"]

_OPEN, _CLOSE = "([{⟨⟦⦃", ")]}⟩⟧⦄"
_NUMBER = re.compile(r"0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"""\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\\"'rnt])""")  # any other is an error in the middle of a literal
_CHAR = re.compile(rf"""'(?:{_ESCAPE.pattern}|[^\\'\n])'""")
_EXPONENT = re.compile(r"""\.[eE](?:['\d+-]|\w*")""")  # in 1.e5 Lean reads a number, in h.1.elim it does not
_HIDING = "\"'-/\\«»`#@."  # what means something else where a character before it is gone
_MAX_DOUBTFUL = 3  # as xⱼ, h₁ⱼ: what stands before is too short to be a command
# Outside comments and strings: ASCII, and the blocks that mathematics is written in.
_BLOCKS = (
    (0x20, 0x7E),
    (0xA1, 0x17F),  # Latin
    (0x2B0, 0x2FF),  # modifier letters, as in sˢ
    (0x370, 0x3FF),  # Greek
    (0x1D2C, 0x1DBF),  # superscript letters
    (0x1F00, 0x1FFE),
    (0x2010, 0x2027),  # dashes, quotes, bullets
    (0x2030, 0x205E),
    (0x2070, 0x209F),  # superscripts, subscripts
    (0x20D0, 0x20F0),
    (0x2100, 0x23FF),  # letter-like, arrows, operators, technical
    (0x2460, 0x27FF),
    (0x2900, 0x2BFF),
    (0x2C7C, 0x2C7D),
    (0x1D49C, 0x1D59F),  # script, double-struck and fraktur letters; bold and italic ones only look like ASCII
    (0x1D7CE, 0x1D7FF),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One token. `glued` says that no space, comment or string stands before it; `line` counts from 1, `end` is where it ends."""

    kind: Kind
    text: str
    line: int
    end: int
    glued: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """A word's components, without guillemets and as what they look like (NFKC)."""
        return tuple(unicodedata.normalize("NFKC", part.strip("«»")) for part in re.findall(r"«[^»]*»|[^.«]+", self.text))


class UnreadableError(ValueError):
    """The text can't be read in exactly one way."""

    def __init__(self, rule: str, detail: str, line: int) -> None:
        super().__init__(f"line {line}: {detail}")
        self.rule, self.detail, self.line = rule, detail, line


def is_letter(char: str) -> bool:
    """Whether Lean lets a name begin with `char`."""
    at = ord(char)
    if at < 0x80:
        return char.isalpha() or char == "_"
    return (
        (0x391 <= at <= 0x3A9 and char not in "ΠΣ")
        or (0x3B1 <= at <= 0x3FB and char != "λ")
        or (0xC0 <= at <= 0x17F and char not in "×÷")
        or 0x1F00 <= at <= 0x1FFE
        or 0x2100 <= at <= 0x214F
        or 0x1D49C <= at <= 0x1D59F
    )


def is_doubtful(char: str) -> bool:
    """Whether some versions of Lean let a name go on with `char` and others end it there."""
    return 0xC0 <= ord(char) <= 0x17F or ord(char) == 0x2C7C


def is_rest(char: str) -> bool:
    """Whether Lean lets a name go on with `char`."""
    at = ord(char)
    subscript = 0x2080 <= at <= 0x2089 or 0x2090 <= at <= 0x209C or 0x1D62 <= at <= 0x1D6A or at == 0x2C7C
    return is_letter(char) or char in "0123456789'!?" or subscript


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text, comments left out; literals keep only their place.

    Raises:
        UnreadableError: a comment, string, character or bracket does not close, or the text may be read in more than one way.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.line = text, 0, 1
        self.tokens: list[Token] = []
        self.glued = False
        self.open: list[tuple[str, int]] = []

    def read(self) -> list[Token]:
        while self.at < len(self.text):
            self._next()
        if self.open:
            bracket, line = self.open[-1]
            raise UnreadableError("bracket", f"{bracket!r} is not closed", line)
        return self.tokens

    def _fail(self, rule: str, detail: str) -> UnreadableError:
        return UnreadableError(rule, detail, self.line)

    def _take(self, kind: Kind, end: int) -> None:
        text = self.text[self.at : end]
        self.tokens.append(Token(kind=kind, text=text, line=self.line, end=end, glued=self.glued))
        self.line += text.count("\n")
        self.at, self.glued = end, True

    def _next(self) -> None:
        text, at, char = self.text, self.at, self.text[self.at]
        if char in " \n":
            self.at, self.glued = at + 1, False
            self.line += char == "\n"
        elif text.startswith(("--", "/-"), at):
            self._comment()
        elif char == '"':
            self._string()
        elif char == "r" and (raw := re.compile(r'r(#*)"').match(text, at)):
            self._raw_string(raw.end(), '"' + raw[1])
        elif is_letter(char) or char == "«":
            self._word()
        elif char.isascii() and char.isdigit():
            match = _NUMBER.match(text, at)
            assert match is not None
            self._take("number", match.end())
            if self.at < len(text) and (is_letter(text[self.at]) or text[self.at] == "«"):
                raise self._fail("number", f"the number {match[0]!r} runs into a name")
            if _EXPONENT.match(text, self.at):
                raise self._fail("number", f"the number {match[0]!r} may have an exponent")
        elif char == "'":
            self._quote()
        else:
            self._symbol(char)

    def _symbol(self, char: str) -> None:
        if not any(low <= ord(char) <= high for low, high in _BLOCKS) or unicodedata.category(char) in ("Cf", "Cn", "Zs"):
            raise self._fail("character", f"the character U+{ord(char):04X} has no place in a proof")
        if char in _OPEN:
            self.open.append((char, self.line))
        elif char in _CLOSE:
            if not self.open or _OPEN.index(self.open[-1][0]) != _CLOSE.index(char):
                raise self._fail("bracket", f"{char!r} closes nothing that is open")
            self.open.pop()
        self._take("symbol", self.at + 1)

    def _word(self) -> None:
        text, end = self.text, self.at
        while True:
            if text[end : end + 1] == "«":
                close = text.find("»", end)
                if close < 0 or "\n" in text[end:close] or close == end + 1:
                    raise self._fail("name", "«…» is empty or does not close on its line")
                self._printable(text[end:close], "name")
                end = close + 1
            else:
                while end < len(text) and is_rest(text[end]):
                    end += 1
            after = text[end + 1 : end + 2]
            if text[end : end + 1] == "." and after and (is_letter(after) or after == "«"):
                end += 1
                continue
            break
        if text[end : end + 1] == "«":
            raise self._fail("name", "a name runs into «…»")
        doubtful = [place for place in range(self.at, end) if is_doubtful(text[place])]
        if doubtful and (doubtful[0] != end - 1 or end - self.at > _MAX_DOUBTFUL):
            raise self._fail("name", f"Lean's versions differ on whether U+{ord(text[doubtful[0]]):04X} belongs to a name")
        self._take("word", end)

    def _quote(self) -> None:
        match = _CHAR.match(self.text, self.at)
        if match is None or (self.at and self.text[self.at - 1] not in " \n,;" + _OPEN):
            if not self._is_notation(self.at):
                raise self._fail("literal", "a quote that begins no character, and what Lean reads behind it is not sure")
            self._take("symbol", self.at + 1)  # a part of notation, as in f '' s
            return
        if any(mark in match[0][1:-1] for mark in '"«»'):
            raise self._fail("literal", "a character literal of a quotation mark")
        self._printable(match[0], "literal")
        self._take("literal", match.end())

    def _is_notation(self, quote: int) -> bool:
        """Whether nothing hides behind a quote if Lean knows no such notation: then it reads a broken character, two characters long."""
        text = self.text
        while True:
            if text[quote + 1 : quote + 2] == "'":
                quote += 1
                continue
            first, second, end = text[quote + 1 : quote + 2] or "\n", text[quote + 2 : quote + 3] or "\n", quote + 3
            if first not in " \n,;" + _CLOSE or second in _HIDING or second.isdigit():
                return False
            if is_letter(second):
                while is_rest(text[end : end + 1] or " ") and not is_letter(text[end]) and text[end] not in "'0123456789":
                    end += 1
                if text[end : end + 1].isdigit():
                    return False
                if text[end : end + 1] == "'":  # of s' only the quote is left
                    quote = end
                    continue
            return re.compile(r"[^\W\d]*\"").match(text, end) is None  # what ends in r before it would begin a raw string

    def _comment(self) -> None:
        text, start = self.text, self.at
        before = text[start - 1] if start else " "
        if not (before in " \n,;" or is_rest(before) or before in _OPEN + _CLOSE + '"»'):
            # In `<--1` Lean may read `<-` and `-1`: what stands there depends on notation.
            raise self._fail("comment", f"{text[start : start + 2]!r} right after {before!r} may or may not begin a comment")
        if text.startswith("--", start):
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
        else:
            if text[start + 2 : start + 3] in ("-", "!"):
                raise self._fail("comment", "a documentation comment has no place in a proof")
            end = self._block_end(start)
        self._printable(text[start:end], "comment")
        self.line += text.count("\n", start, end)
        self.at, self.glued = end, False

    def _block_end(self, start: int) -> int:
        depth, at = 1, start + 2
        while depth:
            match = re.compile(r"-/|/-").search(self.text, at)
            if match is None:
                raise self._fail("comment", "a block comment is not closed")
            if self.text[match.start() - 1] == match[0][0] or (match[0] == "/-" and self.text[match.end() : match.end() + 1] == "/"):
                raise self._fail("comment", "Lean's versions differ on where this comment ends")
            depth += 1 if match[0] == "/-" else -1
            at = match.end()
        return at

    def _string(self) -> None:
        text, end = self.text, self.at + 1
        while text[end : end + 1] != '"':
            if end >= len(text):
                raise self._fail("string", "a string is not closed")
            escape = _ESCAPE.match(text, end)
            if text[end] == "{" or (text[end] == "\\" and escape is None):
                raise self._fail("string", f"{text[end : end + 2]!r} in a string, which may be an interpolation or an error")
            end = escape.end() if escape else end + 1
        self._printable(text[self.at : end], "string")
        self._take("literal", end + 1)
        self.glued = False

    def _raw_string(self, start: int, close: str) -> None:
        end = self.text.find(close, start)
        if end < 0:
            raise self._fail("string", "a raw string is not closed")
        if any(mark in self.text[start:end] for mark in '"\\{'):
            raise self._fail("string", "a raw string that older Lean reads otherwise")
        self._printable(self.text[start:end], "string")
        self._take("literal", end + len(close))
        self.glued = False

    def _printable(self, text: str, rule: str) -> None:
        for char in text:
            if char not in " \n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
                raise self._fail(rule, f"the character U+{ord(char):04X} can't be seen")
