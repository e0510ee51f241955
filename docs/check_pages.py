"""Open the built pages in headless Chromium, as on a desk and on a phone, and follow the links inside the site.

    python docs/check_pages.py [docs/_build/html] [--screenshots FOLDER] [--only PATTERN]

It prints what is wrong, one line each, and leaves with code 1 if anything is: an error on the console, an image that
does not load, a page wider than its window, an address asked for outside the site, a link to a page or to an anchor
that does not exist. Without Chromium only the links are checked. Pages of single names and of source code all look
alike: of these it opens every fortieth.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SIZES = {"desk": (1366, 900), "phone": (390, 844)}
_SEEN = """({
    broken: [...document.images].filter(i => i.complete && i.naturalWidth === 0 && i.offsetParent).map(i => i.src),
    width: document.documentElement.scrollWidth, window: window.innerWidth})"""


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, and the name it gives."""
        known = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := known.get(name)))
        target = known.get("href") if tag in ("a", "link") else known.get("src")
        if target:
            self.links.append(target)


def broken_links(site: Path) -> list[str]:
    """Return one line for each link inside the site that leads nowhere.

    Links back from source code are left out: Sphinx guesses the name under which an object is documented, and misses
    some of those that are exported twice.
    """
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    wrong = set()
    for path, page in pages.items():
        if "_modules" in path.parts:
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                wrong.add(f"{path.relative_to(site.resolve())}: no such file: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"top"}:
                wrong.add(f"{path.relative_to(site.resolve())}: no such anchor: {link}")
    return sorted(wrong)


class Browser:
    """Headless Chromium, spoken to over a pipe by its DevTools protocol."""

    def __init__(self, program: str, profile: str) -> None:
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command = [program, *words, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec 3<&{read} 4>&{write}; exec "$@"', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self._rest, self._number, self.events = b"", 0, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            message, zero, rest = self._rest.partition(b"\0")
            if zero:
                self._rest = rest
                yield json.loads(message)
                continue
            more = os.read(self._from, 1 << 20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self._rest += more

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)
        raise AssertionError

    def open(self, address: str, width: int, height: int) -> None:
        """Open a page in a window of a size, and wait until it has been loaded."""
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.events.clear()
        self.ask("Page.navigate", url=address)
        if any(event.get("method") == "Page.loadEventFired" for event in self.events):
            return
        for event in self._messages():
            self.events.append(event)
            if event.get("method") == "Page.loadEventFired":
                return

    def close(self) -> None:
        """End the program that was started."""
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)


def complaints(events: list[dict[str, Any]]) -> Iterator[str]:
    """Return what the console said, and what was asked for outside the site."""
    for event in events:
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            yield f"exception: {told['exceptionDetails']['text']}"
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error":
            yield f"console: {[argument.get('value') for argument in told['args']]}"
        elif event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            yield f"log: {told['entry']['text']} {told['entry'].get('url', '')}"
        elif event.get("method") == "Network.requestWillBeSent":
            address = told["request"]["url"]
            if urlsplit(address).scheme in ("http", "https"):
                yield f"asks the network for {address}"


def check_page(browser: Browser, site: Path, path: Path, screenshots: Path | None) -> list[str]:
    """Return one line for everything that is wrong with a page."""
    name, wrong = str(path.relative_to(site)), []
    for size, (width, height) in SIZES.items():
        browser.open(path.resolve().as_uri(), width, height)
        seen = browser.ask("Runtime.evaluate", expression=_SEEN, returnByValue=True)["result"]["value"]
        wrong += [f"{name} ({size}): {text}" for text in complaints(browser.events)]
        wrong += [f"{name} ({size}): image missing: {source}" for source in seen["broken"]]
        if seen["width"] > seen["window"]:
            wrong.append(f"{name} ({size}): {seen['width']} pixels wide in a window of {seen['window']}")
        if screenshots is not None:
            data = browser.ask("Page.captureScreenshot", format="png")["data"]
            file = screenshots / f"{name.removesuffix('.html').replace('/', '_')}-{size}.png"
            file.write_bytes(base64.b64decode(data))
    return wrong


def chosen(site: Path, only: str | None) -> list[Path]:
    """Return the pages to open."""
    pages = sorted(site.rglob("*.html"))
    if only is not None:
        return [path for path in pages if fnmatch.fnmatch(str(path.relative_to(site)), only)]
    alike = [path for path in pages if path.relative_to(site).parts[0] in ("reference", "_modules")]
    return [path for path in pages if path not in set(alike)] + alike[::40]


def chromium() -> str | None:
    """Return the program, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def main() -> int:
    """Check a site, and return the code to leave with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", nargs="?", type=Path, default=Path(__file__).parent / "_build" / "html")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all pages that are opened")
    parser.add_argument("--only", help="which pages to open: a pattern of their paths, such as 'tutorials/*'")
    options = parser.parse_args()
    if not (options.site / "index.html").is_file():
        parser.error(f"there is no site in {options.site}: build it with 'make docs'")
    wrong = broken_links(options.site)
    program, pages = chromium(), chosen(options.site, options.only)
    if program is None:
        print("there is no Chromium, so no page is opened", file=sys.stderr)
    else:
        if options.screenshots:
            options.screenshots.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            browser = Browser(program, profile)
            try:
                for path in pages:
                    wrong += check_page(browser, options.site, path, options.screenshots)
            finally:
                browser.close()
        print(f"{len(pages)} pages opened at {len(SIZES)} widths", file=sys.stderr)
    print("\n".join(wrong) if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
