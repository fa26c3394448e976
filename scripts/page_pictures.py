#!/usr/bin/env python3
"""A first visit to the page of `templora serve`, on the embedded model, step by step: pictures into results/server/.

scripts/page_pictures.py            needs Chromium and its driver (on Debian: apt-get install chromium chromium-driver)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

OUT = Path(__file__).parent.parent / "results" / "server"


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "templora", "serve", "--port", "0", "--sessions", folder]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        url = next(line.split(" at ")[1].split("/v1")[0] for line in server.stderr if "/v1" in line)
        threading.Thread(target=lambda: [None for _ in server.stderr or ()], daemon=True).start()
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in ("--headless=new", "--no-sandbox", "--no-first-run", "--window-size=1300,980", "--disable-gpu"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            taken = visit(browser, url)
        finally:
            browser.quit()
            server.terminate()
            server.wait(60)
    (OUT / "first-visit.json").write_text(json.dumps(taken, indent=1) + "\n")
    print(json.dumps(taken))


def visit(browser: Any, url: str) -> dict[str, Any]:
    """What a newcomer does; seconds from the first click on, and what the page says."""
    browser.get(url)

    def find(id: str) -> Any:
        return browser.find_element(By.ID, id)

    def until(what: Callable[[], Any]) -> None:
        end = time.monotonic() + 300
        while not what():
            assert time.monotonic() < end, find("status").text
            time.sleep(0.05)

    def idle() -> None:
        until(lambda: not find("go").get_property("disabled"))

    until(lambda: find("show").is_displayed())
    browser.save_screenshot(str(OUT / "1-welcome.png"))
    began, seconds = time.monotonic(), {}
    find("show").click()
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#strip [role=option]")) == 3)
    browser.save_screenshot(str(OUT / "2-reading.png"))
    idle()
    seconds["the story is learnt"] = time.monotonic() - began
    said = find("curves-said").text
    find("go").click()
    idle()
    seconds["gone on with"] = time.monotonic() - began
    find("compare").click()
    idle()
    seconds["and without the adapter"] = time.monotonic() - began
    browser.execute_script("scrollTo(0, document.body.scrollHeight)")
    browser.save_screenshot(str(OUT / "3-with-and-without.png"))
    find("beside-close").click()
    browser.execute_script(
        "const c = document.getElementById('colours'); c.value = 'change'; c.dispatchEvent(new Event('change'))"
    )
    until(lambda: " · " in find("words").text)
    seconds["what it changed"] = time.monotonic() - began
    browser.execute_script("scrollTo(0, 0)")
    browser.save_screenshot(str(OUT / "4-what-it-changed.png"))
    return {"seconds since the first click": seconds, "the page says": said, "words": find("words").text}


if __name__ == "__main__":
    main()
