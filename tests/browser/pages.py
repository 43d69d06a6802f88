"""A page of headless Chromium, as a person sees it: its text, its figures, and what is cut off.

with chromium() as browser: page = Look(browser, 390); page.open(address); page.sees("100 %")
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, sync_playwright

DESKTOP, PHONE = 1440, 390
"""Widths in pixels."""
HEIGHTS = {DESKTOP: 1000, PHONE: 844}
PATIENCE_SECONDS = 240
UNREADABLE = re.compile(
    r"\bNaN\b|\bundefined\b|\[object Object\]|\bNone\b|\binf\b"
    r"|\d+\.\d{7,}"  # sixteen digits of a float
    r"|Traceback \(most recent"
)
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """() => [...document.querySelectorAll('td, th, h1, h2, h3, p, li, summary, figcaption, a')]
  .filter(e => e.checkVisibility() && e.textContent.trim())
  .filter(e => ['hidden', 'clip'].includes(getComputedStyle(e).overflowX)
               && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.trim().slice(0, 80))"""
DOWN = """() => [document.scrollingElement, ...document.querySelectorAll('body *')]
  .filter(e => e.scrollHeight > e.clientHeight && getComputedStyle(e).overflowY != 'hidden')
  .forEach(e => e.scrollBy(0, 400))"""
EMPTY = """() => [...document.querySelectorAll('h2, h3')]
  .filter(h => { const next = h.nextElementSibling?.tagName;
                 return !next || next == h.tagName || (h.tagName == 'H3' && next == 'H2'); })
  .map(h => h.textContent)"""
UNSEEN = """() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.alt)"""
COLOURS = """() => [...document.querySelectorAll('input[type=color]')].map(e => e.value)"""
FIRST_VISIT = """try {
  localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
  localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
} catch (error) {}"""
"""Keeps MLflow's assistant, which greets each new browser, from covering the page."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium: the system's, else the one of `playwright install chromium`."""
    place = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=place, args=arguments)
        except Error as error:
            pytest.skip(
                "no browser: install Debian's chromium, or run `playwright install chromium` "
                f"({str(error).splitlines()[0]})"
            )
        yield browser
        browser.close()


class Look:
    """A page at one width."""

    def __init__(self, browser: Browser, width: int) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": HEIGHTS[width]})
        self.page.set_default_timeout(1000 * PATIENCE_SECONDS)
        self.page.add_init_script(FIRST_VISIT)

    def open(self, address: str | Path) -> None:
        """Go to an address, or to a file."""
        self.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)

    def sees(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until each of the texts is on the page, visible."""
        for text in texts:
            self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def finds(self, *texts: str | re.Pattern[str]) -> None:
        """Scroll down until each text was seen: Prefect draws only those lines of a log, and those
        artifacts, that are on the screen."""
        left = list(texts)
        for _ in range(PATIENCE_SECONDS):
            page = self.page
            left = [t for t in left if not page.get_by_text(t).locator("visible=true").count()]
            if not left:
                return
            page.evaluate(DOWN)
            page.wait_for_timeout(1000)
        raise AssertionError(f"{left} not found:\n{self.text()}")

    def text(self) -> str:
        """All that is to be read."""
        return self.page.inner_text("body")

    def order(self, *texts: str) -> None:
        """Assert that the texts stand below, or beside, each other in this order."""
        places = [self.text().find(text) for text in texts]
        assert -1 not in places and places == sorted(places), dict(zip(texts, places, strict=True))

    def readable(self) -> None:
        """Assert that nothing on the page is a value that only programs can read."""
        found = [match.group() for match in UNREADABLE.finditer(self.text())]
        assert not found, found

    def fits(self) -> None:
        """Assert that the page does not scroll sideways, and that no words are cut off."""
        assert self.page.evaluate(SIDEWAYS) <= 0
        assert self.page.evaluate(CUT) == []

    def field(self, label: str) -> Locator:
        """The box below a label of a form."""
        return self.page.locator("label", has_text=label).locator("xpath=following::input[1]")

    def choices(self, label: str) -> Locator:
        """The list of choices below a label of a form: the button after that of its menu."""
        return self.page.locator("label", has_text=label).locator("xpath=following::button[2]")

    def tab(self, name: str) -> None:
        """Choose a tab of Prefect's page of a run; on a phone it is an entry of a list."""
        shown = self.page.get_by_text("Logs", exact=True).locator("visible=true").first
        shown.wait_for()
        if not self.page.get_by_text(name, exact=True).locator("visible=true").count():
            shown.locator("xpath=ancestor-or-self::button").focus()
            self.page.keyboard.press("ArrowDown")
        self.page.get_by_text(name, exact=True).locator("visible=true").first.click()

    def colours(self) -> list[str]:
        """Colours of the models in MLflow's list of runs."""
        found: list[str] = self.page.evaluate(COLOURS)
        return found

    def empty_sections(self) -> list[str]:
        """Headings of a report with nothing below them."""
        found: list[str] = self.page.evaluate(EMPTY)
        return found

    def unseen_pictures(self) -> list[str]:
        """Pictures that did not load."""
        found: list[str] = self.page.evaluate(UNSEEN)
        return found

    def shoot(self, path: Path, **more: Any) -> None:
        """Save a picture."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, timeout=1000 * PATIENCE_SECONDS, **more)
