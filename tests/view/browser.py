"""A real headless Chromium, driven through Debian's chromedriver by the W3C WebDriver protocol: no more of it than the tests need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

WAIT_S = 60.0
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--window-size=1440,1000"]
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "ArrowLeft": "\ue012", "ArrowRight": "\ue014"}


def missing() -> str | None:
    """Return what this machine lacks for a browser, or None."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: chromium, chromium-driver)" if absent else None


class Browser:
    """One browser window; a context manager.

    Args:
        profile: A folder for the browser's files.
    """

    def __init__(self, profile: Path) -> None:
        self._driver = subprocess.Popen(
            [str(shutil.which("chromedriver")), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        port = next(line.rsplit(" ", 1)[1].rstrip(".\n") for line in self._driver.stdout if "started successfully on port" in line)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False)
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._driver.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._call("DELETE", f"/session/{self._session}")
        finally:
            self._http.close()
            self._driver.terminate()
            self._driver.wait()

    def open(self, address: str) -> None:
        """Load a page."""
        self._ask("url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns in the page."""
        return self._ask("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *arguments: Any) -> Any:
        """Return the first true value of a JavaScript expression."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if found := self.run(f"return {condition}", *arguments):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {condition}; the page says: {self.text()[:2000]}")

    def go(self, address: str) -> None:
        """Go to a place inside the page, and wait until it is shown."""
        self.run("location.hash = arguments[0]", address)
        self.shown(address)

    def shown(self, address: str) -> None:
        """Wait until a place inside the page is shown."""
        self.wait("document.getElementById('main').dataset.shown === arguments[0]", address)

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
        self._ask("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def text(self) -> str:
        """Return the page's visible text."""
        return str(self.run("return document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", f"/session/{self._session}/screenshot")))

    def complaints(self) -> list[str]:
        """Return what the page's console has said since the last call: errors, and what its policy blocked."""
        return [entry["message"] for entry in self._ask("se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]

    def _ask(self, what: str, body: dict[str, Any]) -> Any:
        return self._call("POST", f"/session/{self._session}/{what}", body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, path, content=None if body is None else json.dumps(body))
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value
