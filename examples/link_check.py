"""Checks the links of a site: how many pages and links there are is known only when the run is under way.

Run it with `python examples/link_check.py`. The site is Python's own documentation of some packages of its standard
library, made by pydoc and served by a local server. Each page is fetched by an `async def` step; the links found on all
pages become the steps of a second fan-out. All steps of one wait at the same time, in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import http.server
import importlib
import pkgutil
import pydoc
import tempfile
import threading
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pfw import Workflow, run, step

PACKAGES = ("collections", "concurrent", "html", "http", "json", "logging", "urllib", "xml")
#: How long the server takes to answer, s: as if it were far away.
DELAY_S = 0.05


class Page(NamedTuple):
    """What came back for a URL."""

    url: str
    status: int
    #: Where its links lead: absolute URLs without fragments, each once.
    links: list[str]


class Links(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Gets each tag."""
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.found[urllib.parse.urldefrag(urllib.parse.urljoin(self.base, target)).url] = None


async def get(url: str) -> tuple[int, str]:
    """Returns status and body of an HTTP answer."""
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(maxsplit=2)[1]), body.decode("utf-8", "replace")


@step(retry=2)
async def fetch(url: str) -> Page:
    """Fetches a page and finds its links."""
    status, body = await get(url)
    parser = Links(url)
    parser.feed(body)
    return Page(url, status, list(parser.found))


@step
def pages_of(index: Page) -> list[str]:
    """Returns the pages that the index names."""
    return index.links


@step
def targets_of(pages: list[Page]) -> list[str]:
    """Returns what the pages link to on this site, each once, but for the pages themselves."""
    known = {page.url for page in pages}
    site = urllib.parse.urlsplit(pages[0].url).netloc
    links = dict.fromkeys(link for page in pages for link in page.links)
    return [link for link in links if link not in known and urllib.parse.urlsplit(link).netloc == site]


@step(retry=2)
async def check(url: str) -> tuple[str, int]:
    """Returns the status of a URL."""
    return url, (await get(url))[0]


@step
def report(pages: list[Page], checked: list[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Returns [(broken link, status, pages that have it)], the most frequent first."""
    named = Counter(link for page in pages for link in page.links)
    broken = [(url, status, named[url]) for url, status in checked if status != 200]
    return sorted(broken, key=lambda row: (-row[2], row[0]))


def main(index: str) -> Workflow:
    """Makes the workflow: two maps over lists that are known only when the run is under way."""
    with Workflow("link check") as workflow:
        pages = pages_of(fetch.options(id="index")(index)).map(fetch)
        checked = targets_of(pages).map(check)
        workflow.returns({"pages": pages, "checked": checked, "broken": report(pages, checked)})
    return workflow


# ---------------------------------------------------------------- the site


def modules() -> Iterator[str]:
    """Yields the names of the packages and of all modules in them."""
    for name in PACKAGES:
        yield name
        package = importlib.import_module(name)
        yield from (found.name for found in pkgutil.walk_packages(package.__path__, f"{name}."))


def write_site(folder: Path) -> int:
    """Writes a page for each module, and an index; returns how many pages there are."""
    maker, names = pydoc.HTMLDoc(), []
    for name in modules():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = maker.document(importlib.import_module(name), name)
        (folder / f"{name}.html").write_text(maker.page(name, body), "utf-8")
        names.append(name)
    items = "\n".join(f'<li><a href="{name}.html">{name}</a></li>' for name in names)
    (folder / "index.html").write_text(f"<!DOCTYPE html><title>Index</title><ul>{items}</ul>", "utf-8")
    return len(names)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, slowly and without a word."""

    def do_GET(self) -> None:
        """Answers after a while."""
        threading.Event().wait(DELAY_S)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Has room for all who come at once."""

    request_queue_size = 1_000


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves the folder on a free port of this machine; gives the address."""
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count = write_site(Path(scratch))
        with serving(Path(scratch)) as address:
            print(f"{count} pages of Python's documentation")
            found = run(main(f"{address}/index.html"))
    pages, checked, broken = (found.value[name] for name in ("pages", "checked", "broken"))
    assert len(pages) == count
    links = sum(len(page.links) for page in pages)
    print(f"{len(pages)} pages have {links:,} links; {len(checked)} lead elsewhere on the site, {len(broken)} broken:")
    for url, status, named in broken[:8]:
        print(f"  {status}  {urllib.parse.urlsplit(url).path:40} on {named} pages")
    metrics, fetched = found.metrics, 1 + len(pages) + len(checked)
    print(
        f"{metrics.total_steps} steps in {metrics.total_duration:.2f} s; "
        f"one after another they would wait {fetched * DELAY_S:.1f} s"
    )
