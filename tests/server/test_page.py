"""The page for writers, in a real headless browser."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, small
from serving import Serving, serving
from test_openai import call

from templora.server import runs
from templora.text import token_text

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Chains = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="there is no Chromium (on Debian: apt-get install chromium chromium-driver)",
)
SHOTS = os.environ.get("TEMPLORA_SCREENSHOTS")  # a folder to leave pictures in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("page"), config=small(chunk_size=64, window=192, learn_written=False)) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    downloads = tmp_path_factory.mktemp("downloads")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--no-first-run",
        "--window-size=1300,900",
        *(f"--disable-{q}" for q in quiet),
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
    made = webdriver.Chrome(options=options, service=service)
    made.downloads = downloads
    try:
        yield made
    finally:
        made.quit()


class Page:
    """What a person sees and does."""

    def __init__(self, browser: Any, server: Serving) -> None:
        self.browser, self.server = browser, server

    def open(self) -> None:
        self.browser.get(self.server.url)
        self.wait(lambda: self.script("return document.querySelector('#texts').options.length > 0"))

    def script(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def find(self, id: str) -> Any:
        return self.browser.find_element(By.ID, id)

    def click(self, id: str) -> None:
        self.find(id).click()

    @property
    def text(self) -> str:
        return str(self.script("return document.getElementById('text').value"))

    @property
    def held(self) -> str:
        """The text as the server has it; a text area has no line ends but one."""
        said = str(call(self.server, "GET", f"/v1/sessions/{self.session()}/text")[1])
        return said.replace("\r\n", "\n").replace("\r", "\n")

    @property
    def status(self) -> str:
        return str(self.find("status").text)

    def wait(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < end, f"{self.status!r}; {self.browser.get_log('browser')}"
            time.sleep(0.02)
        return found

    def idle(self) -> None:
        self.wait(lambda: not self.find("go").get_property("disabled"))

    def type(self, *keys: str) -> None:
        self.find("text").send_keys(*keys)

    def shot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(f"{SHOTS}/{name}.png")

    def session(self) -> str:
        return str(self.script("return localStorage.getItem('templora.last')"))


@pytest.fixture
def page(chromium: Any, server: Serving) -> Iterator[Page]:
    made = Page(chromium, server)
    made.open()
    made.script("localStorage.clear()")
    for session in call(server, "GET", "/v1/sessions")[1]["data"]:
        call(server, "DELETE", f"/v1/sessions/{session['id']}")
    made.open()
    chromium.get_log("browser")  # of the page before
    yield made
    severe = [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe, severe


def test_a_first_visit(page: Page) -> None:
    assert page.find("welcome").is_displayed()
    page.shot("welcome")
    page.click("show")
    page.wait(
        lambda: (
            "pages learnt" in page.find("strip-said").text
            and page.script("return document.querySelectorAll('#curves polyline').length") == 2
        )
    )
    page.idle()
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#strip [role=option]")) > 100
    assert "as it is" in page.find("curves-said").text
    before = page.text
    page.script("document.getElementById('tokens').value = 30")
    page.click("go")
    page.idle()
    assert page.text.startswith(before)
    assert len(page.text) > len(before)
    assert page.held == page.text
    assert "nats on average" in page.find("ribbon-said").text
    tokens = call(page.server, "GET", f"/v1/sessions/{page.session()}")[1]["tokens"]
    page.click("compare")
    page.idle()
    assert page.find("beside-text").text
    assert call(page.server, "GET", f"/v1/sessions/{page.session()}")[1]["tokens"] == tokens
    page.shot("first-visit")


def test_writing_stopping_retrying_undoing(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.type(TEXT)
    page.type(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: len(page.text) > len(TEXT) + 5)
    page.idle()
    first = page.text
    page.type(Keys.CONTROL, Keys.SHIFT, Keys.ENTER)  # retry
    page.wait(lambda: page.text != first and page.text.startswith(TEXT))
    page.idle()
    assert page.text != first
    page.click("undo")
    page.click("undo")
    assert page.text in (TEXT, first)
    page.click("redo")
    # As slow as a model is, so that it is still writing when it is stopped.
    monkeypatch.setattr(runs, "token_text", lambda *token: time.sleep(0.005) or token_text(*token))
    page.script("document.getElementById('tokens').value = 2000")
    page.click("go")
    page.wait(lambda: not page.find("stop").get_property("disabled"))
    at = len(page.text)
    page.wait(lambda: len(page.text) > at + 5)
    page.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.idle()
    assert len(page.text) < at + 1900
    monkeypatch.undo()
    page.wait(lambda: not call(page.server, "GET", f"/v1/sessions/{page.session()}")[1]["busy"])
    # What was edited is what is gone on with.
    page.script("document.getElementById('tokens').value = 10")
    page.script(
        "const t = document.getElementById('text'); t.value = t.value.slice(0, 200) + ' Edited.';"
        "t.dispatchEvent(new Event('input'))"
    )
    edited = page.text
    page.click("go")
    page.idle()
    assert page.text.startswith(edited)
    assert page.held == page.text


def test_what_else_was_likely(page: Page) -> None:
    page.type(TEXT)
    page.click("go")
    page.idle()
    hover = page.find("hover")
    for _ in range(20):  # the model's words are bytes, some of which say nothing by themselves
        page.type(Keys.ALT, Keys.ARROW_DOWN)
        if hover.is_displayed():
            break
        page.type(Keys.ARROW_LEFT)
    assert hover.is_displayed()
    assert len(hover.find_elements(By.TAG_NAME, "button")) == 8
    page.shot("hover")
    start = page.script("return document.getElementById('text').value.length") - 1
    second = hover.find_elements(By.TAG_NAME, "button")[1]
    second.click()
    page.idle()
    assert len(page.text) > start
    assert not hover.is_displayed()
    # Where the colours say what the adapter changed, both are there, with it and without.
    page.script(
        "const c = document.getElementById('colours'); c.value = 'change'; c.dispatchEvent(new Event('change'))"
    )

    asked = 0.0

    def both() -> bool:
        nonlocal asked
        if "with what it learnt" in hover.text:
            return True
        if time.monotonic() > asked + 4:  # each time asks anew, and a slow machine has to be given time to answer
            page.type(Keys.CONTROL, Keys.HOME)
            page.type(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
            page.type(Keys.ALT, Keys.ARROW_DOWN)
            asked = time.monotonic()
        return "with what it learnt" in hover.text

    page.wait(both)
    assert len(hover.find_elements(By.TAG_NAME, "button")) == 16
    # Undo brings back what was known of the words, too.
    page.type(Keys.CONTROL, Keys.END)
    page.type("!")
    page.click("undo")
    page.wait(both)


def test_memory_is_read_and_not_learnt(page: Page) -> None:
    page.type(TEXT)
    page.click("go")
    page.idle()
    page.find("memory").send_keys("Ann is old.")
    page.find("note").send_keys("Write dryly.")
    about = page.wait(
        lambda: (
            (found := call(page.server, "GET", f"/v1/sessions/{page.session()}")[1])["notes"].endswith("dryly.]")
            and found
        )
    )
    assert about["notes"] == "Ann is old.\n\n[Write dryly.]"
    page.open()
    page.wait(lambda: page.find("memory").get_property("value") == "Ann is old.")
    assert page.find("note").get_property("value") == "Write dryly."


def test_it_is_kept_exported_and_imported(page: Page, tmp_path: Path) -> None:
    page.type(TEXT)
    page.click("go")
    page.idle()
    page.type(Keys.CONTROL, Keys.END)
    page.type(" And then")
    text = page.text
    page.open()
    page.wait(lambda: page.text == text)  # also what the server has not seen yet
    page.click("export")
    file = page.wait(lambda: next(page.browser.downloads.glob("*.txt"), None))
    assert file.read_text() == text
    other = tmp_path / "other.txt"
    other.write_text("Another text.\r\nWith lines.")
    page.find("file").send_keys(str(other))
    page.wait(lambda: page.text == "Another text.\nWith lines.")


def test_back_and_branches_and_the_receipt(page: Page) -> None:
    page.type(TEXT * 3)
    page.click("learn")
    page.idle()
    original = page.session()
    page.find("strip").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert "Page 2" in page.find("strip-said").text
    page.click("fork")
    page.wait(lambda: page.session() != original and len(page.text) == 128)
    page.wait(lambda: len(page.find("tree").find_elements(By.TAG_NAME, "button")) == 2)
    page.shot("tree")
    page.find("tree").find_elements(By.TAG_NAME, "button")[0].click()
    page.wait(lambda: page.session() == original and page.text == TEXT * 3)
    page.find("strip").send_keys(Keys.HOME)
    page.click("rewind")
    page.wait(lambda: len(page.text) == 64)
    page.find("colours").send_keys("what")
    page.wait(lambda: page.script("return CSS.highlights.size") >= 0 and "reading" not in page.status)
    page.click("close")
    page.browser.switch_to.alert.accept()
    page.wait(lambda: page.find("receipt").is_displayed())
    assert "the model is as it was" in page.find("receipt").text
    assert call(page.server, "GET", f"/v1/sessions/{original}")[0] == 404


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1300])
def test_contrast_and_labels(page: Page, theme: str, width: int) -> None:
    axe = Path(__file__).parent / "axe.min.js"
    if not axe.exists():
        axe_module = pytest.importorskip("axe_core_python")
        axe = next(Path(axe_module.__file__).parent.rglob("axe.min.js"))
    page.browser.set_window_size(width, 900)
    page.script("document.documentElement.dataset.theme = arguments[0]", theme)
    page.type(TEXT * 2)
    page.click("go")
    page.idle()
    page.script(axe.read_text())
    found = page.browser.execute_async_script("axe.run(document).then(arguments[0])")
    problems = {v["id"]: [n["target"] for n in v["nodes"]] for v in found["violations"]}
    assert not problems, json.dumps(problems)
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    page.shot(f"{theme}-{width}")
    page.browser.set_window_size(1300, 900)
