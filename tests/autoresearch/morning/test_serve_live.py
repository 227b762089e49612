"""The live page in a real browser: it follows a study that runs, steers it, and keeps what the reader was at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import TOKEN, served
from studies import BAD, GOOD, change, make_study, run_study, wait_until

from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock
from autoresearch.workers.fleet import Fleet, Place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty page that fails the test if it complains on its console."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on(
            "console",
            lambda message: (
                complaints.append(f"{message.text} {message.location}") if message.type == "error" else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        browser.close()
    assert [complaint for complaint in complaints if "ERR_CONNECTION_REFUSED" not in complaint] == []


def night_of_two(home: Path) -> threading.Thread:
    """A study that runs meanwhile, for two trials."""
    answers = [change("lr", GOOD), change("lr", BAD), change("lr", 0.003), change("batch_size", 16)]
    thread = threading.Thread(target=lambda: run_study(StudyFolder(home, "one"), answers, trials=2))
    thread.start()
    return thread


def test_the_page_follows_and_steers_a_study_that_runs(page: Any, tmp_path: Path) -> None:
    study = make_study(tmp_path, decision__max_runs=2)
    with served(tmp_path, TOKEN) as client:
        page.goto(f"{client.base_url}/?token={TOKEN}")
        page.wait_for_selector("html[data-ready]")
        assert page.url == f"{client.base_url}/", "the token has left the address"
        assert page.locator("#trials tr[data-trial]").count() == 1
        page.click("#pause")
        page.wait_for_selector("#resume:enabled")
        assert study.store.control == "pause"

        running = night_of_two(tmp_path)
        page.wait_for_selector("#status:has-text('running, paused')")
        wait_until(lambda: not study.store.pending_runs())
        assert len(study.store.trials()) == 1, "the study waits"
        page.click("#resume")
        page.wait_for_selector("#trials tr[data-trial='2']")
        running.join()

        page.fill("#filter", "lr")
        page.click("#trials th button:has-text('val_bpb')")
        page.click("#trials tr[data-trial='1'] td:last-child")
        page.wait_for_selector("#trial[open][data-shown='1']")
        assert f"+lr = {GOOD}" in page.inner_text("#trial")
        running = night_of_two(tmp_path)
        page.wait_for_selector("#trials tr[data-trial='4']", state="attached")
        running.join()
        assert page.locator("#trial[open][data-shown='1']").count() == 1
        page.keyboard.press("Escape")
        page.wait_for_selector("#trial", state="hidden")
        assert page.input_value("#filter") == "lr"
        assert page.locator("#trials th[aria-sort]").inner_text().startswith("val_bpb")
        shown = page.locator("#trials tr[data-trial]:visible")
        assert shown.evaluate_all("rows => rows.map(row => row.dataset.trial)")[0] == "1", "the best comes first"
        assert page.locator("#trials tr[data-trial='4']").is_hidden(), "the filter still holds"

        page.goto(f"{client.base_url}/sql/study/kept_trials")
        assert page.locator("table.rows-and-columns tbody tr").count() >= 1


def test_the_page_shows_a_cluster_while_a_night_runs_on_one(page: Any, tmp_path: Path) -> None:
    study, hostile = make_study(tmp_path), "<img src=x onerror=alert(1)>"
    fleet, slot = Fleet(study.path), Place(1, hostile, "aaaa1111", "Some GPU", "0001-0", False, 3, 0.5, 60.0)
    with served(tmp_path) as client:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(str(client.base_url))
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#cluster-section").is_hidden()
        assert not any("cluster.json" in url for url in asked), "no night runs"
        with RunnerLock(study.path):
            fleet.write([slot])
            page.wait_for_selector("#cluster td:has-text('0001-0')")
            assert hostile in page.inner_text("#cluster") and page.locator("#cluster img").count() == 0
            fleet.write([replace(slot, does="0002-1", draining=True)])  # and nothing in the database
            page.wait_for_selector("#cluster td:has-text('0002-1, then is closed')")
            fleet.write([])
            page.wait_for_selector("#cluster-now:has-text('no slot: the night waits for a node')")
        page.wait_for_selector("#cluster-section", state="hidden")


def test_a_server_that_is_gone_is_told_in_one_line(page: Any, tmp_path: Path) -> None:
    make_study(tmp_path)
    with served(tmp_path) as client:
        page.goto(str(client.base_url))
        page.wait_for_selector("html[data-ready]")
    page.wait_for_selector("#notice:has-text('the server is gone')")
    assert page.locator("#trials tr[data-trial]").count() == 1, "what was shown stays"
