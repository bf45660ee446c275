"""A page in a real browser, headless, over its DevTools protocol: what it asked for, said and looked like."""

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.patience import HANG_SECONDS, HTTP_SECONDS, await_exit, pause, scaled, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


@dataclass(kw_only=True)
class Tab:
    """One tab. ``requests`` are URLs; ``messages`` is what reached the console, the browser's own words included."""

    connection: ClientConnection
    requests: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    _calls: int = 0

    def open(self, url: str, *, width: int, height: int = 844, mobile: bool = False) -> None:
        """Load the page on a screen of so many CSS pixels."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")
        # what the page does once it is there, and what its browser then asks the network
        self.call(
            "Runtime.evaluate", expression="new Promise(done => requestIdleCallback(() => done()))", awaitPromise=True
        )
        pause()

    def evaluate(self, script: str) -> Any:
        """The value of an expression on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, condition: str) -> None:
        until(lambda: self.evaluate(f"location.href !== 'about:blank' && {condition}"), condition)

    def screenshot(self, path: Path) -> None:
        """The whole page, as far as it can be scrolled."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self.connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=scaled(HANG_SECONDS)))
            if message.get("id") == self._calls:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.messages.append(event["params"])


@contextlib.contextmanager
def browser_tab(folder: Path, *flags: str) -> Iterator[Tab]:
    """A tab of a browser of its own, whose profile is in ``folder``."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"]
    log_path = folder.parent / "chromium.log"
    with log_path.open("wb") as log:
        browser = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(
            until(lambda: _tab_url(folder), "a tab of the browser", alive=[browser], logs=[log_path]), max_size=None
        ) as connection:
            tab = Tab(connection=connection)
            yield tab
            tab.call("Browser.close")
            await_exit(browser, "the end of the browser", logs=[log_path])
    finally:
        browser.kill()
        browser.wait()


def _tab_url(folder: Path) -> str:
    """Where to talk to the browser's tab; empty before the browser has one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        port = (folder / "DevToolsActivePort").read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=scaled(HTTP_SECONDS)) as answer:
            for target in json.load(answer):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
    return ""
