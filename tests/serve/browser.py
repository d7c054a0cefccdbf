"""A headless Chromium driven through chromedriver's W3C WebDriver protocol, with nothing but HTTP."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthier.serve.server import bind

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element reference
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class Browser:
    """One browser session."""

    def __init__(self, driver: httpx.Client, session: str) -> None:
        self._driver, self._path = driver, f"/session/{session}"

    def command(self, method: str, path: str, **body: Any) -> Any:
        """Send one command and return its value."""
        response = self._driver.request(method, self._path + path, json=body if method == "POST" else None)
        value = response.json()["value"]
        assert response.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        self.command("POST", "/url", url=url)

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self.command("POST", "/execute/sync", script=script, args=list(args))

    def _element(self, css: str) -> str:
        return self.command("POST", "/element", using="css selector", value=css)[ELEMENT]

    def click(self, css: str) -> None:
        self.command("POST", f"/element/{self._element(css)}/click")

    def type(self, css: str, text: str) -> None:
        self.command("POST", f"/element/{self._element(css)}/value", text=text)

    def text(self, css: str) -> str:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent).join('|')", css)

    def resize(self, width: int, height: int) -> None:
        self.command("POST", "/window/rect", width=width, height=height)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        """Wait for something that must happen."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in the browser"
            time.sleep(0.05)


@contextlib.contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own; skips the test where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with (
        subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http,
    ):
        try:
            _wait_until_ready(http)
            options = {"binary": binary, "args": [*FLAGS, *flags, f"--user-data-dir={profile}"]}
            capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
            started = http.post("/session", json={"capabilities": capabilities})
            assert started.status_code == 200, started.text
            session = started.json()["value"]["sessionId"]
            yield Browser(http, session)
            http.delete(f"/session/{session}")
        finally:
            process.terminate()


def _wait_until_ready(http: httpx.Client) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            if http.get("/status").json()["value"]["ready"]:
                return
        time.sleep(0.1)
    raise AssertionError("chromedriver did not start")
