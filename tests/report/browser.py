"""Headless Chromium through its debugging pipe: no driver and no package is needed beside the browser."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time

OPTIONS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-extensions",
    "hide-scrollbars", "remote-debugging-pipe",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_path():
    """The browser that is installed, None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One tab, with the errors that its console and its loading have told so far."""

    def __init__(self, connection, session):
        self._connection, self._session = connection, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        return self._connection.call(method, params, self._session)

    def size(self, width, height=900):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def load(self, path, fragment=""):
        """Open a file; the seconds until its load event, and what went wrong."""
        start = time.perf_counter()
        self.open(path, fragment)
        seconds = time.perf_counter() - start
        self.run("new Promise(r => requestAnimationFrame(() => setTimeout(r, 0)))")
        return seconds, self.errors()

    def open(self, path, fragment=""):
        """Open a file and wait for its load event."""
        self._connection.events.clear()
        told = self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        # A place on the page that is open already is a move and no load.
        self._connection.wait("Page.loadEventFired" if "loaderId" in told else "Page.navigatedWithinDocument")

    def errors(self):
        found = []
        for event in self._connection.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
            elif event["method"] == "Network.loadingFailed" and not params.get("canceled"):
                found.append(params["errorText"])
        return found

    def run(self, expression):
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression, seconds=20):
        """Ask again until an expression is true, also while one page takes the place of another."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(PageLeftError):
                if self.run(expression):
                    return
            time.sleep(0.05)
        raise AssertionError(
            f"not true within {seconds} s: {expression}; the page is {self.run('location.href')}"
        )

    def press(self, key, text=""):
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            codes = {"Tab": 9, "Enter": 13, "Escape": 27}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=codes.get(key, 0), **extra)  # fmt: skip

    def screenshot(self, path, *, full=True):
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(told["data"]))


class PageLeftError(Exception):
    """The page that was asked something was left before it answered."""


class _Connection:
    def __init__(self, process, write, read):
        self._process, self._write, self._read = process, write, read
        self._number, self._buffer, self.events = 0, b"", []

    def call(self, method, params=None, session=None):
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params or {}}
        os.write(
            self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        )
        while True:
            told = self._next()
            if told.get("id") == number:
                if "navigated or closed" in told.get("error", {}).get("message", ""):
                    raise PageLeftError(told["error"]["message"])
                assert "error" not in told, told["error"]
                return told["result"]

    def wait(self, method):
        while not any(event["method"] == method for event in self.events):
            self._next()

    def _next(self):
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        told = json.loads(line)
        if "method" in told:
            self.events.append(told)
        return told


@contextlib.contextmanager
def open_tab():
    """A tab of a fresh headless browser."""
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        # The browser reads commands from descriptor 3 and answers on 4; the ends it is given lie above both.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1])]
        command = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "browser", browser_path()]
        options = [f"--{name}" for name in OPTIONS] + [f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [*command, *options],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser[0], from_browser[1], *ends):
            os.close(end)
        connection = _Connection(process, to_browser[1], from_browser[0])
        try:
            target = connection.call("Target.createTarget", {"url": "about:blank"})["targetId"]
            attached = connection.call("Target.attachToTarget", {"targetId": target, "flatten": True})
            yield Tab(connection, attached["sessionId"])
        finally:
            with contextlib.suppress(Exception):
                connection.call("Browser.close")
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(to_browser[1])
            os.close(from_browser[0])
