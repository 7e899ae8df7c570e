"""A real browser for tests: the Chromium or Chrome that the machine has, without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What the browser saw, kept for a person to look at; never committed.
SCREENSHOTS = Path(__file__).parent / "artifacts"
# No sandbox: CI is root in a container, and every page opened is our own. The rest keeps it from asking the internet.
SWITCHES = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]


@contextmanager
def open_browser() -> Iterator[tuple[Page, list[str]]]:
    """An empty page, and the errors that pages report, which grow as they do; the test is skipped without a browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on the path: looked for {', '.join(NAMES)}")
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        context = browser.new_context(viewport={"width": 3200, "height": 1200})
        context.on("weberror", lambda error: errors.append(str(error.error)))
        yield context.new_page(), errors
        browser.close()


def screenshot(page: Page, name: str) -> Path:
    """A picture of the whole page under `tests/artifacts`; returns its file."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path
