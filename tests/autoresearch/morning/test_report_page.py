"""The report page in a real browser: it draws, filters, opens trials, and takes no text for markup."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import published
import pytest
from sample_facts import Details, Facts, promotions, sample
from studies import BAD, GOOD, change, make_study, run_study

from autoresearch.exchange import import_study
from autoresearch.morning.report.page import page, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


if CHROMIUM is None:
    pytest.skip("no Chromium or Chrome: the report page was not tried in a browser", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    facts, details = sample()
    facts["promotions"] = promotions(facts["trials"])
    return _file(tmp_path_factory.mktemp("report") / "index.html", facts, details)


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab of a fresh profile that fails its test if the page complained, asked the network, or opened a dialog."""
    context = browser.new_context(viewport=DESK, color_scheme="light")
    tab = context.new_page()
    troubles: list[str] = []
    tab.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    tab.on("requestfailed", lambda request: troubles.append(f"request: {request.failure} {request.url[-200:]}"))

    def refuse(dialog: Any) -> None:
        troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    tab.on("dialog", refuse)
    tab.troubles = troubles
    yield tab
    context.close()
    # Chromium calls a 304 to a conditional fetch aborted, though the page reads it.
    assert [it for it in troubles if not re.fullmatch(r"request: net::ERR_ABORTED \S*/facts.json", it)] == []


def _file(path: Path, facts: Facts, details: Details) -> str:
    path.write_text(page(facts, details), encoding="utf-8")
    return path.as_uri()


def _open(tab: Any, url: str) -> None:
    tab.goto(url)
    tab.wait_for_selector("html[data-ready]")


def _visible(tab: Any) -> list[int]:
    rows = "rows => rows.map(row => Number(row.dataset.trial))"
    return tab.eval_on_selector_all("#trials tr[data-trial]:not(.out)", rows)


def _shown(tab: Any, trial: int) -> Any:
    tab.wait_for_selector(f"#trial[data-shown='{trial}']")
    return tab.locator("#trial")


def test_every_section_is_drawn_from_a_file_without_any_complaint(tab: Any, report: str) -> None:
    _open(tab, report)
    assert tab.inner_text("#headline p >> nth=0") == "28 changes were tried, 2 were kept."
    assert "researching" in tab.inner_text("#verdict").lower()
    for chart in ("best", "best_by_energy", "curves", "lineage", "wall", "energy", "repeats"):
        assert tab.locator(f"[data-chart={chart}] svg path").count() > 3, chart
    assert tab.locator("#coverage figure svg").count() == 6
    assert tab.inner_text("#untouched") == "Never turned: weight_decay, activation."
    assert tab.locator("#promotions tbody tr").count() == 2
    assert _visible(tab) == list(range(29))


def test_hostile_text_stays_text_everywhere(tab: Any, report: str) -> None:
    _open(tab, report)
    assert "<img src=x onerror=alert(1)>" in tab.inner_text("#warnings")
    assert "<script>alert(2)</script>" in tab.inner_text("#trials tr[data-trial='3']")
    tab.click("#trials tr[data-trial='3'] a")
    dialog = _shown(tab, 3)
    dialog.locator("summary").first.click()
    for part in ("blockquote", "pre >> nth=0", "ol.rails", "details pre >> nth=0"):
        text = dialog.locator(part).inner_text()
        assert "<img src=x onerror=alert(1)>" in text, part
        assert not re.search("[\x1b\u202e]", text), part
    assert tab.locator("img, main b b, dialog b b, main script, dialog script").count() == 0


def test_a_tooltip_shows_hostile_text_as_text(tab: Any, report: str) -> None:
    _open(tab, report)
    tab.locator("[data-chart=best] path[aria-label*='onerror']").first.hover()
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "<img src=x onerror=alert(1)>" in tooltip.inner_text()
    assert tooltip.locator("img, script").count() == 0


def test_words_and_outcome_filter_the_table(tab: Any, report: str) -> None:
    _open(tab, report)
    tab.select_option("#outcome", "keep")
    assert _visible(tab) == [5, 6]
    tab.fill("#filter", "LR 0.002")
    assert _visible(tab) == [5]
    assert tab.inner_text("#count") == "1 of 29 trials"
    tab.fill("#filter", "no such thing")
    assert _visible(tab) == []


def test_a_heading_sorts_both_ways_and_trials_without_a_value_come_last(tab: Any, report: str) -> None:
    _open(tab, report)
    scores = {t["number"]: t["val_bpb"] for t in sample()[0]["trials"]}
    ranked = sorted((n for n in scores if scores[n] is not None), key=lambda n: scores[n])
    without = [n for n in scores if scores[n] is None]
    heading = tab.get_by_role("button", name="bits per byte")
    heading.click()
    assert _visible(tab) == ranked + without
    heading.click()
    assert _visible(tab) == ranked[::-1] + without
    assert tab.locator("#trials th[aria-sort=descending]").inner_text().strip().startswith("bits per byte")


def test_a_trial_opens_turns_and_closes_by_keyboard_alone(tab: Any, report: str) -> None:
    _open(tab, report)
    tab.focus("#trials tr[data-trial='5'] a")
    tab.keyboard.press("Enter")
    assert "Trial 5" in _shown(tab, 5).inner_text()
    tab.keyboard.press("ArrowRight")
    assert "Trial 6" in _shown(tab, 6).inner_text()
    tab.keyboard.press("ArrowLeft")
    _shown(tab, 5).get_by_role("button", name="next").focus()
    for trial in (6, 7):  # the button that was pressed keeps the focus
        tab.keyboard.press("Enter")
        _shown(tab, trial)
    tab.keyboard.press("Escape")
    tab.wait_for_url(report)  # without #trial-7
    assert tab.is_hidden("#trial")
    assert tab.evaluate("document.activeElement.textContent") == "5"  # the link that opened it


def test_the_open_trial_holds_diff_verdicts_runs_curve_prompt_and_answer(tab: Any, report: str) -> None:
    _open(tab, f"{report}#trial-7")  # blocked
    assert "\u2717 blocked by novelty" in _shown(tab, 7).locator("ol.rails .blocked").inner_text()
    tab.evaluate("location.hash = 'trial-5'")
    dialog = _shown(tab, 5)
    assert dialog.locator("pre .plus").inner_text() == "+lr = 0.002"
    assert dialog.locator("tbody tr").count() == len(sample()[1][5]["runs"])
    assert dialog.locator("figure svg path").count() > 1
    dialog.locator("summary").first.click()
    assert "- trial 2: d_ff 512 -> 256: discard\n" in dialog.locator("details pre").first.inner_text()
    assert '{"knob": "lr"}' in dialog.inner_text()


def test_a_point_of_a_chart_opens_its_trial(tab: Any, report: str) -> None:
    _open(tab, report)
    tab.locator("[data-chart=best] path[aria-label^='trial: 5;']").first.click()
    assert "Trial 5" in _shown(tab, 5).inner_text()


def test_one_terrible_trial_does_not_squash_the_picture(tab: Any, report: str) -> None:
    _open(tab, report)
    labels = tab.locator("[data-chart=best] .mark-text.role-axis-label text").all_text_contents()
    assert max(float(label) for label in labels if "." in label) < 3.2  # trial 4 has 6.0
    assert "\u25b2" in tab.locator("[data-chart=best] svg").text_content()
    assert "1 trial beyond it, up to 6.01" in tab.inner_text("[data-chart=best] figcaption")


def test_a_phone_needs_no_sideways_scroll(tab: Any, report: str) -> None:
    tab.set_viewport_size(PHONE)
    _open(tab, report)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.evaluate("location.hash = 'trial-3'")
    assert _shown(tab, 3).evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")


def test_charts_and_ground_follow_the_system_into_the_dark(tab: Any, report: str) -> None:
    _open(tab, report)
    ground = "getComputedStyle(document.body).backgroundColor"
    axis = "document.querySelector('[data-chart=best] .role-axis-label text').getAttribute('fill')"
    light = tab.evaluate(f"[{ground}, {axis}]")
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_selector("html[data-ready=dark]")
    dark = tab.evaluate(f"[{ground}, {axis}]")
    assert dark[0] != light[0] and dark[1] != light[1]


def test_a_study_that_has_only_begun_has_a_page(tab: Any, tmp_path: Path) -> None:
    facts, details = sample(0)
    nothing = dict.fromkeys(("val_bpb", "low", "high", "best", "best_low", "best_high", "energy_joules", "seconds"))
    facts["trials"][0] |= nothing | {"state": "running", "outcome": "running", "n_runs": 0, "kwh": 0.0}
    for standing in ("baseline", "incumbent"):
        facts[standing] |= {"val_bpb": None, "val_bpb_half_interval": None, "n_runs": 0, "test_bpb": None}
    facts["meters"] = {name: None for name in facts["meters"]} | {
        "proposals": 0, "unique_pairs": 0, "knobs_touched": 0, "knobs_on_menu": 8, "untouched": [], "windows": [],
        "plateau": 0, "blocked_by_rail": {}, "judged_both_ways": [], "verdict": "researching", "why": "too few to tell",
    }  # fmt: skip
    facts |= {"coverage": [], "wall": [], "proposers": [], "failures": [], "curves": []}
    details[0]["runs"] = []
    _open(tab, f"{_file(tmp_path / 'index.html', facts, details)}#trial-0")
    assert "Trial 0" in _shown(tab, 0).inner_text()


def test_a_page_of_two_thousand_trials_filters(tab: Any, tmp_path: Path) -> None:
    facts, details = sample(2000, curve_points=4)
    _open(tab, _file(tmp_path / "index.html", facts, details))
    tab.select_option("#outcome", "keep")
    assert _visible(tab) == [t["number"] for t in facts["trials"] if t["outcome"] == "keep"]
    tab.evaluate("location.hash = 'trial-1999'")
    assert "Trial 1999" in _shown(tab, 1999).inner_text()


def test_the_report_of_a_real_study_replaces_the_one_before_and_opens(tab: Any, tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD), change("lr", BAD)], trials=2)
    target = folder.path / "report"
    target.mkdir(exist_ok=True)
    (target / "index.html").write_text("old")
    assert write_report(folder) == target / "index.html"
    assert sorted(path.name for path in target.iterdir()) == ["index.html", "report.md"]
    _open(tab, (target / "index.html").as_uri())
    assert _visible(tab) == [0, 1, 2]
    tab.evaluate("location.hash = 'trial-1'")
    assert f"+lr = {GOOD}" in _shown(tab, 1).locator("pre .plus").inner_text()


def test_an_imported_night_leaves_out_what_it_cannot_know(tab: Any, tmp_path: Path) -> None:
    file = tmp_path / "trajectory.jsonl"
    file.write_text("\n".join(map(json.dumps, published.records())))
    _open(tab, write_report(import_study(tmp_path, "published", file)).as_uri())
    assert "imported from trajectory.jsonl" in tab.inner_text("h1")
    assert "up to 13.76" in tab.inner_text("[data-chart=best] figcaption")
    for left_out in ("best_by_energy", "energy", "curves"):
        assert tab.is_hidden(f"[data-chart={left_out}]")
    assert tab.locator("h2:visible", has_text="energy").count() == 0


class _Server(ThreadingHTTPServer):
    """The smallest server that a live page needs; it counts what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.facts, self.details = sample(12)
        self.status = 200
        self.asked: list[str] = []
        self.posted: list[tuple[str | None, Any]] = []


class _Answer(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        found = re.fullmatch(r"/trials/(\d+)\.json", self.path)
        if self.path == "/":
            return self._send(page(live=True), "text/html; charset=utf-8")
        self.server.asked.append(self.path)
        if found:
            return self._send(json.dumps(self.server.details[int(found[1])]))
        text = json.dumps(self.server.facts)
        etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
        if self.headers["If-None-Match"] == etag:
            self.server.asked[-1] = "unchanged"
            self.send_response(304)
            return self.end_headers()
        self._send(text, etag=etag, status=self.server.status)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted.append((self.headers["X-Autoresearch"], body))
        self.server.facts["study"]["control"] = body["control"]
        self._send(json.dumps(body))

    def _send(self, text: str, kind: str = "application/json", etag: str = "", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _live(tab: Any, server: _Server) -> None:
    _open(tab, f"http://127.0.0.1:{server.server_port}/")


def _look_again(tab: Any) -> None:
    """What the page does when a person comes back to it, and every two seconds besides."""
    tab.evaluate("dispatchEvent(new Event('visibilitychange'))")


def test_a_new_trial_appears_without_reload_and_nothing_else_moves(server: _Server, tab: Any) -> None:
    _live(tab, server)
    tab.fill("#filter", "n_layer")
    tab.select_option("#outcome", "discard")
    tab.get_by_role("button", name="bits per byte").click()
    before = _visible(tab)
    place = tab.evaluate("(document.querySelector('#filter').scrollIntoView({behavior: 'instant'}), scrollY)")
    tab.evaluate(f"location.hash = 'trial-{before[0]}'")
    _shown(tab, before[0])
    new = dict(server.facts["trials"][1], number=13, change="n_layer 4 -> 5", outcome="discard", val_bpb=9.0)
    server.facts["trials"].append(new)
    _look_again(tab)
    tab.wait_for_selector("html[data-trials='14']")
    assert _visible(tab) == [*before, 13]
    assert tab.evaluate("[document.querySelector('#trial').open, scrollY]") == [True, place]
    assert tab.locator("#trials th[aria-sort=ascending]").inner_text().strip().startswith("bits per byte")


def test_an_unchanged_study_is_not_sent_twice(server: _Server, tab: Any) -> None:
    _live(tab, server)
    with tab.expect_response(lambda answer: answer.url.endswith("facts.json")) as answer:
        _look_again(tab)
    assert answer.value.status == 304
    assert "unchanged" in server.asked


def test_pause_and_resume_are_sent_and_shown(server: _Server, tab: Any) -> None:
    _live(tab, server)
    assert tab.is_disabled("#resume")
    tab.click("#pause")
    tab.wait_for_selector("#resume:enabled")
    assert "paused" in tab.inner_text("#status")
    tab.click("#resume")
    tab.wait_for_selector("#pause:enabled")
    assert server.posted == [("1", {"control": "pause"}), ("1", {"control": "run"})]


def test_a_server_that_refuses_or_is_gone_is_told_in_one_line_and_the_page_stays(server: _Server, tab: Any) -> None:
    _live(tab, server)
    server.status = 401
    server.facts["study"]["control"] = "pause"
    _look_again(tab)
    tab.wait_for_selector("#notice:has-text('token')")
    server.status = 200
    _look_again(tab)
    tab.wait_for_selector("#notice:empty", state="hidden")
    server.socket.close()
    _look_again(tab)
    tab.wait_for_selector("#notice:has-text('is gone')")
    assert _visible(tab) == list(range(13))
    tab.close()
    tab.troubles.clear()  # the browser itself logs each refused request
