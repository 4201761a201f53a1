"""The pages in a real browser: they obey their own content policy, and work by keyboard, on phones, in the dark."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.command import RELAY, Cli
from tests.web import hostile
from tests.web.conftest import running
from tests.web.server import TOKEN, Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe here")
PAGES = ("/", "/queue?name=deliveries", "/jobs", "/runs", "/dead", "/bad", "/schedules", "/processes", "/acts")
LONG = (("light", 1280, 800), ("dark", 391, 800), ("light", 2560, 1440))
SCREENS = (
    ("dark", 390, 800),  # `make test` has this one only, without what takes long
    *(pytest.param(one, marks=pytest.mark.browser) for one in LONG),
)
# What an accessibility checker looks for, by screen: all on one, on the dark one colours, which are all that differs.
RULES = {1280: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], 391: ["color-contrast"]}


def findings(page: sync_api.Page, width: int) -> list[str]:
    """What an accessibility checker finds on a page."""
    if width not in RULES:
        return []
    found = axe.Axe().run(page, options={"runOnly": RULES[width]}).response["violations"]
    return [f"{page.url} {one['id']}: {[node['html'] for node in one['nodes']][:3]}" for one in found]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page with acts and a token, on a hostile store of its own."""
    cli = Cli(tmp_path_factory.mktemp("browser"))
    cli.write("relay.py", RELAY)
    hostile.fill(cli)
    started = Server(cli, "--allow-actions", "--name", "staging", "--colour", "amber", token=TOKEN)
    with running(started):
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def person(chromium: sync_api.Browser, server: Server, scheme: str, width: int, height: int) -> Iterator[sync_api.Page]:
    """A page of a person who has logged in. Whatever the browser complains of fails the test."""
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda one: one.url.startswith(server.origin) or complaints.append(f"asks {one.url}"))
    page.goto(server.origin)
    assert page.url.endswith("/login")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{server.origin}/")
    yield page
    context.close()
    assert complaints == []


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def test_every_page_opens(chromium: sync_api.Browser, server: Server, screen: tuple[str, int, int]) -> None:
    with person(chromium, server, *screen) as page:
        assert findings(page, screen[1]) == []
        job = re.search(r'href="(/job\?[^"]+)"', server.get("/dead").text)
        file = re.search(r'href="(/bad/file\?[^"]+)"', server.get("/bad").text)
        assert job
        assert file
        others = [found[1].replace("&amp;", "&") + "&payload=1" for found in (job, file)]
        for path in (*PAGES, *others):
            answer = page.goto(server.origin + path)
            assert answer is not None
            assert answer.status == 200
            assert findings(page, screen[1]) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= screen[1], path  # only tables scroll aside


def test_a_person_without_a_mouse_acts(chromium: sync_api.Browser, server: Server) -> None:
    with person(chromium, server, "light", 1280, 800) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.goto(f"{server.origin}/dead")
        page.get_by_label("Choose").focus()
        page.keyboard.press("Space")
        page.get_by_role("button", name="Replay chosen").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/act")
        assert "replayed 1 of 1" in page.inner_text("main")
        page.goto(f"{server.origin}/acts")
        assert "Ada" in page.inner_text("main")
        page.goto(f"{server.origin}/job?id=plain-ready")
        page.get_by_text("Delete…").focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Delete for ever").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/act")
        assert "deleted 1 of 1" in page.inner_text("main")


@pytest.mark.browser
def test_tables_sort_and_pages_refresh_by_themselves(chromium: sync_api.Browser, server: Server) -> None:
    with person(chromium, server, "light", 1280, 800) as page:
        page.get_by_role("button", name="Delayed").click()
        page.get_by_role("button", name="Delayed").click()
        assert page.locator("tbody tr").first.inner_text().startswith("digests")
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.evaluate("document.querySelector('h1').textContent = 'Old'")
        page.get_by_role("heading", name="Overview").wait_for()
        assert page.locator("tbody tr").first.inner_text().startswith("digests")  # sorted as it was
        page.get_by_role("button", name="Refreshes every 5 s").click()
        assert page.get_by_role("button", name="Does not refresh").count() == 1
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
