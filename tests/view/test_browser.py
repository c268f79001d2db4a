"""The window in a real headless Chromium: what a person sees and presses, and what hostile text can't do. Screenshots are kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.view.command import main
from tests.command_line import ROOT, command, environment
from tests.view.browser import Browser, missing
from tests.view.conftest import HOSTILE

SHOTS = ROOT / "test-results"

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(run_dir: Path) -> Iterator[str]:
    served = subprocess.Popen(command("view", str(run_dir), "--port", "0"), env=environment(), stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    yield served.stdout.readline().split()[0]
    served.terminate()
    served.wait()


def unharmed(browser: Browser) -> None:
    """Check that nothing in the page ran, loaded or became markup that should not."""
    assert browser.run("return window.pwned === undefined")
    assert browser.run("return document.querySelectorAll('main img, main script, main iframe').length") == 0
    assert browser.complaints() == []


def test_the_pages_show_the_run(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait("document.getElementById('main').dataset.page === 'overview'")
    assert "3 / 3" in browser.text()
    assert browser.run("return document.querySelectorAll('.chart .line').length") >= 2
    browser.screenshot(SHOTS / "view-overview.png")
    browser.go("#/curves")
    assert "reward/mean" in browser.text()
    browser.go("#/levels")
    assert browser.run("return [...document.querySelectorAll('.heat')].map((map) => map.querySelectorAll('rect').length)") == [3, 3]
    assert "The curriculum's P(solved)" in browser.text()
    browser.screenshot(SHOTS / "view-curriculum.png")
    unharmed(browser)


def test_a_person_finds_their_way_by_keyboard_alone(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait("document.getElementById('main').dataset.page === 'overview'")
    browser.press("g")
    browser.shown("#/groups")
    browser.press("j", "j")
    second = browser.run("return [...document.querySelectorAll('[data-nav]')][1].getAttribute('href')")
    assert browser.run("return document.activeElement.getAttribute('href')") == second
    browser.press("Enter")
    browser.shown(second)
    assert browser.run("return document.querySelectorAll('.sibling').length") == 4
    browser.press("j", "Enter")
    browser.wait("document.getElementById('main').dataset.page === 'attempt'")
    first = browser.run("return location.hash")
    browser.press("n")
    browser.wait("location.hash !== arguments[0] && document.getElementById('main').dataset.shown === location.hash", first)
    browser.press("p")
    browser.shown(first)
    browser.press("?")
    browser.wait("document.querySelector('dialog[open]')")
    browser.press("Escape")
    browser.wait("!document.querySelector('dialog[open]')")
    browser.press("g")
    browser.shown("#/groups")
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "search"
    browser.press(*"zebra", "Enter")
    browser.shown("#/groups?words=zebra")
    assert browser.run("return document.querySelectorAll('[data-nav]').length") == 1
    unharmed(browser)


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, address: str) -> None:
    browser.open(f"{address}#/groups?words=zebra")
    browser.wait("document.querySelectorAll('[data-nav]').length === 1")
    group = browser.run("return document.querySelector('[data-nav]').getAttribute('href')")
    browser.go(group)
    assert '<img src=x onerror="window.pwned=1">' in browser.run("return document.querySelector('pre').textContent")
    browser.screenshot(SHOTS / "view-group.png")
    browser.go(browser.run("return document.querySelectorAll('[data-nav]')[1].getAttribute('href')"))
    said = browser.run("return document.querySelector('.turn > .tokens').textContent").replace("⏎\n", "\n")
    assert said.startswith(HOSTILE[:60])
    assert "\x1b" not in said
    assert "\u202e" not in said
    for colours in ("logprob", "mask", "plain"):
        browser.run("[...document.querySelectorAll('.switch button')].find((b) => b.textContent === arguments[0]).click()", colours)
        browser.wait("document.querySelector('.tokens.by-' + arguments[0])", colours)
    browser.run("document.querySelector('.switch button').click()")
    browser.wait("document.querySelector('.tokens.by-logprob')")
    seen = browser.run("return [...document.querySelectorAll('.turn > .tokens .m1')].map((t) => getComputedStyle(t).backgroundColor)")
    assert len(set(seen)) >= 5  # improbable tokens are darker
    browser.screenshot(SHOTS / "view-attempt.png")
    unharmed(browser)


def test_an_exported_page_works_without_a_server(browser: Browser, run_dir: Path, tmp_path: Path) -> None:
    assert main([str(run_dir), "--export", str(tmp_path / "run.html"), "--groups", "100"]) == 0
    browser.open((tmp_path / "run.html").as_uri())
    browser.wait("document.getElementById('main').dataset.page === 'overview'")
    browser.go("#/groups?words=zebra&outcome=solved")
    assert browser.run("return document.querySelectorAll('[data-nav]').length") == 1
    browser.go(browser.run("return document.querySelector('[data-nav]').getAttribute('href')"))
    browser.go(browser.run("return document.querySelector('[data-nav]').getAttribute('href')"))
    assert "Lineage" in browser.text()
    unharmed(browser)
