"""Takes the pictures of the docs in a real browser: python docs/pictures.py trajectories/first-night (needs [dev])."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path
from typing import Literal

import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from autoresearch.morning.report.page import write_report
from autoresearch.morning.serve import make_app
from autoresearch.study.folder import StudyFolder

DOCS = Path(__file__).parent
PORT = 8643


def open_page(browser: Browser, address: str, width: int, height: int, scheme: Literal["light", "dark"]) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    return page


def take(browser: Browser, study: Path) -> None:
    address = write_report(StudyFolder(study.parent, study.name)).as_uri()
    page = open_page(browser, address, 1000, 900, "light")
    chart = page.locator("figure[data-chart=best]").bounding_box()
    assert chart
    height = chart["y"] + chart["height"] + 20
    page.screenshot(path=DOCS / "report.png", full_page=True, clip={"x": 0, "y": 0, "width": 1000, "height": height})
    number = StudyFolder(study.parent, study.name).store.study()["incumbent"]
    open_page(browser, f"{address}#trial-{number}", 1000, 900, "light").screenshot(path=DOCS / "trial.png")
    open_page(browser, address, 390, 844, "dark").screenshot(path=DOCS / "phone.png")
    open_page(browser, f"http://127.0.0.1:{PORT}/", 1000, 420, "light").screenshot(path=DOCS / "live.png")


def main(study: Path) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser_path, "install Chromium first"
    server = uvicorn.Server(uvicorn.Config(make_app(study.parent, study.name), port=PORT, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with sync_playwright() as playwright:
            take(playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"]), study)
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
