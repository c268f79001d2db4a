import pytest

from flywheel.canonical import normalised_code, normalised_lean, words

PLAIN = "def total(xs, start):\n    s = start\n    for x in xs:\n        s = s + x\n    return s\n"
SAME = {
    "names": "def f(a, b):\n    c = b\n    for d in a:\n        c = c + d\n    return c\n",
    "comments, docstrings, annotations and layout": (
        'def total(xs: list[int], start: int) -> int:\n    """Add."""\n\n    s: int = start  # begin\n'
        "    for x in xs: s = (s + x)\n    return s\n"
    ),
}
OTHER = {
    "another operator": PLAIN.replace("s + x", "s - x"),
    "names exchanged": PLAIN.replace("s = start", "s = xs"),
    "a constant": PLAIN.replace("return s", "return s + 1"),
    "a built-in": PLAIN.replace("return s", "return abs(s)"),
}


@pytest.mark.parametrize("name", SAME)
def test_code_that_is_the_same_but_for_its_clothes(name: str) -> None:
    assert normalised_code(SAME[name]) == normalised_code(PLAIN)


@pytest.mark.parametrize("name", OTHER)
def test_code_that_is_not(name: str) -> None:
    assert normalised_code(OTHER[name]) != normalised_code(PLAIN)


def test_source_that_does_not_parse_and_built_in_names() -> None:
    assert normalised_code("def  f(:\n  x") == "def f(: x"
    assert normalised_code("print(len(x))") != normalised_code("print(sum(x))")


def test_lean_statements() -> None:
    plain = normalised_lean("theorem add_comm' (a b : Nat) : a + b = b + a")
    assert normalised_lean("lemma foo  (a b: Nat) -- swap\n  : a + b = b + a /- so -/") == plain
    assert normalised_lean("example (a b : Nat) : a + b = b + a") == plain
    assert normalised_lean("theorem t (a b : Nat) : a + b = a + b") != plain


def test_words() -> None:
    assert words("Write f(xs), please!") == ["write", "f", "(", "xs", ")", ",", "please", "!"]
