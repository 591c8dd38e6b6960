"""A stack with a first dollar and an open question in it, and Chromium in front of its console.

Whatever a page logs as an error, a refused script or style among it, fails the test that opened it.
Pictures go to the folder SCREENSHOTS names, else to a temporary one.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, sync_playwright

from tests.scenarios.conftest import System, make_system

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TABLES_WIDE_ENOUGH: Any = {"width": 1400, "height": 900}
OUR_OWN_RECEIVERS = {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
PEOPLE_AND_A_QUESTION = """
from commerce import clock
from commerce.actor import Actor
from commerce.console.demo_users import ensure_demo_users
from commerce.console.services import open_review
from payouts.models import Payout

ensure_demo_users()
payout = Payout.objects.get(amount_minor=3_167_500)
open_review(
    kind="bank_inquiry", subject_type="payouts.payout", subject_id=payout.pk,
    title=f"The bank asks about {payout}", detail="What is it for?", value=payout.amount,
    evidence={"amount_minor": payout.amount_minor, "currency": payout.currency, "attempt": payout.attempt},
    actor=Actor.system("tests"), at=clock.now(),
)
"""


@pytest.fixture(scope="package")
def played(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any, migrated: str
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("browser")
    options = {"environment": OUR_OWN_RECEIVERS}
    for system in make_system(folder, "browser", 14, django_db_blocker, migrated, **options):
        system.play("first_dollar")
        system.manage("shell", "--verbosity", "0", "-c", PEOPLE_AND_A_QUESTION)
        yield system
        for name in system.stack.processes:  # nothing of theirs is worth a shutdown in order
            system.stack.kill(name)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_found(playwright), args=FLAGS)
        yield browser
        browser.close()


def _found(playwright: Playwright) -> str:
    own = playwright.chromium.executable_path
    known = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), own if Path(own).exists() else None]
    path = next(filter(None, known), None)
    if path is None:
        pytest.fail(
            "There is no Chromium: install it (apt-get install chromium, or playwright install chromium), "
            "or let CHROMIUM name one."
        )
    return path


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Desk:
    """One person's browser window on the console."""

    def __init__(self, page: Page, address: str, pictures: Path) -> None:
        self.page, self.address, self.pictures = page, address, pictures
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", self._listen)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.text}")

    def log_in(self, name: str) -> None:
        self.page.goto(f"{self.address}/admin/login/")
        self.page.fill("[name=username]", name)
        self.page.fill("[name=password]", f"{name}-demo-2027")
        self.press(self.page.locator("[type=submit]"))
        assert self.page.title() == "Home | Commerce"

    def open(self, path: str, *, picture: str = "") -> None:
        """Go there; the page is whole: 200, not wider than the window, no word of Python on it."""
        answer = self.page.goto(f"{self.address}{path}")
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"
        self.inspect(picture)

    def follow(self, text: str, *, within: str = "#content-main", picture: str = "") -> None:
        """Click a link by its exact text."""
        link = self.page.locator(within).get_by_role("link", name=text, exact=True)
        self.press(link.first, picture=picture)

    def press(self, what: Locator, *, picture: str = "") -> None:
        with self.page.expect_navigation():
            what.click()
        self.inspect(picture)

    def inspect(self, picture: str = "") -> None:
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(width) <= 0, f"{self.page.url} is wider than the window"
        words = self.text()
        for quoted in self.page.locator("pre").all_inner_texts():
            words = words.replace(" ".join(quoted.split()), "")
        for leak in ("None", "{'", "[]", "&lt;"):
            assert leak not in words, f"{self.page.url} says {leak}"
        if picture:
            self.page.screenshot(path=self.pictures / f"{picture}.png", full_page="list" not in picture)

    def text(self) -> str:
        return " ".join(self.page.inner_text("body").split())

    def says(self, *figures: str) -> None:
        """In whatever case the style shows it."""
        words = self.text().casefold()
        for figure in figures:
            assert figure.casefold() in words, f"{self.page.url} does not say {figure}"

    def rows(self) -> list[str]:
        """The addresses that a list's rows lead to."""
        here = self.page.url.removeprefix(self.address).partition("?")[0]
        links = self.page.eval_on_selector_all(
            "#result_list tbody a", "links => links.map(link => link.getAttribute('href'))"
        )
        return [link.partition("?")[0] for link in links if link.startswith(here) and "/change/" in link]


@pytest.fixture(scope="package")
def desks(chromium: Browser, played: System, pictures: Path) -> Callable[..., Desk]:
    """One window per person and look, logged in once when a name is given."""

    @functools.cache
    def sit_down(name: str = "", color_scheme: Any = "light") -> Desk:
        context = chromium.new_context(viewport=TABLES_WIDE_ENOUGH, color_scheme=color_scheme)
        found = Desk(context.new_page(), played.stack.web_url, pictures)
        if name:
            found.log_in(name)
        return found

    return sit_down


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Iterator[Callable[..., Desk]]:
    """Take a person's window; nothing on the pages opened there may have complained."""
    taken: list[Desk] = []

    def sit_down(*who: Any, **look: Any) -> Desk:
        taken.append(found := desks(*who, **look))
        return found

    yield sit_down
    complaints = [complaint for found in taken for complaint in found.complaints]
    for found in taken:
        found.complaints.clear()
    assert complaints == []
