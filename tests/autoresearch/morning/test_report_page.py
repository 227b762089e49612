"""The report page in a real browser: it draws, filters, opens trials, and takes no text for markup."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from report_speed import make_study as make_long_study
from sample_study import ANSWERS, BLOCKED, EVIL, HOSTILE, KEPT, OUTLIER
from serving import TOKEN, served
from studies import BAD, GOOD, change, make_study, run_study

from autoresearch.morning.report.detail import details
from autoresearch.morning.report.facts import ReportFacts, facts
from autoresearch.morning.report.page import write_report
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Attempt, Proposal

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
def told(hostile_night: StudyFolder) -> ReportFacts:
    return facts(hostile_night)


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


def _open(tab: Any, url: str) -> None:
    tab.goto(url)
    tab.wait_for_selector("html[data-ready]")


def _visible(tab: Any) -> list[int]:
    rows = "rows => rows.map(row => Number(row.dataset.trial))"
    return tab.eval_on_selector_all("#trials tr[data-trial]:not(.out)", rows)


def _shown(tab: Any, trial: int) -> Any:
    tab.wait_for_selector(f"#trial[data-shown='{trial}']")
    return tab.locator("#trial")


def _plain(text: str) -> str:
    """As it was before it was typeset."""
    for sign, letters in {"\u2192": "->", "\u2212": "-", "\u2013": "-", "\u00a0": " "}.items():
        text = text.replace(sign, letters)
    return text


def _cells(tab: Any, table: str) -> list[list[str]]:
    rows = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    return [[_plain(cell) for cell in row] for row in tab.eval_on_selector_all(f"{table} tbody tr", rows)]


def test_gain_is_drawn_against_compute_where_runs_took_more_or_less(tab: Any, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("n_layer", 6), change("n_layer", 3), change("beta1", 0.55)], workers=1)
    _open(tab, write_report(folder).as_uri())
    chart = tab.locator("[data-chart=compute]")
    points = chart.locator("svg [aria-roledescription=point]")
    assert points.count() == 3, "the baseline and two that are complete"
    assert {"0.8 x", "1 x", "1.5 x"} <= set(chart.locator("svg text").all_text_contents())
    assert [row[6] for row in _cells(tab, "#trials")] == ["-", "1.50 x", "0.750 x", "-"]
    points.nth(1).click()
    assert "a run took 200,000 tokens, " in _plain(_shown(tab, 1).inner_text())


def test_every_section_is_drawn_from_a_file_without_any_complaint(tab: Any, report: str, told: ReportFacts) -> None:
    _open(tab, report)
    headline = tab.inner_text("#headline p >> nth=0")
    assert headline.startswith("14 changes were trained, 3 of them failed, 3 more were blocked before training")
    assert headline.endswith("3 were kept (lr 0.001 \u2192 0.002; lr 0.002 \u2192 0.003; lr 0.002 \u2192 0.004).")
    assert "researching" in tab.inner_text("#verdict").lower()
    for chart in ("best", "best_by_energy", "curves", "lineage", "wall", "energy", "repeats"):
        assert tab.locator(f"[data-chart={chart}] svg path").count() > 3, chart
    assert tab.locator("[data-chart=compute]").is_hidden(), "all runs took the same"
    assert tab.locator("#coverage figure svg").count() == len(told.knobs) == 8
    assert tab.inner_text("#untouched").startswith("Never turned: d_model, ")
    assert tab.locator("#promotions tbody tr").count() == 5
    assert tab.locator("#failures h3").all_inner_texts() == [group.title for group in told.failures]
    assert _visible(tab) == list(range(len(ANSWERS) + 1))


def test_the_page_prints_the_texts_of_the_facts_typeset(tab: Any, report: str, told: ReportFacts) -> None:
    _open(tab, report)
    assert _plain(tab.inner_text("#status")) == told.study.status
    assert _plain(tab.inner_text("#preset")) == told.study.origin
    assert [_plain(text) for text in tab.locator("#headline p").all_inner_texts()] == told.headline
    assert _cells(tab, "#standings") == told.standings.rows
    assert _cells(tab, "#proposers") == told.proposers.rows
    assert _cells(tab, "#promotions") == told.promotions[0].recipes.rows
    terms = "terms => terms.map(term => [...term.children].map(child => child.textContent))"
    shown = [[_plain(text) for text in meter] for meter in tab.eval_on_selector_all("#meters div", terms)]
    assert shown == [[line.name, line.value, line.note] for line in told.meters]
    assert told.energy in _plain(tab.inner_text("[data-chart=energy] figcaption"))
    assert told.noise in tab.inner_text("footer").replace("\u00a0", " ")
    row = next(row for row in _cells(tab, "#trials") if row[0] == "5")
    kept = told.trials[5]
    assert row[2:] == [
        kept.change, kept.score, str(kept.n_runs), kept.better, kept.times, kept.proposer, kept.time, kept.energy,
    ]  # fmt: skip
    worse = tab.inner_text(f"#trials tr[data-trial='{OUTLIER}']")
    assert "\u2212" in worse and "\u00a0\u00b1\u00a0" in worse, "a real minus; a score stays on its line"


def test_hostile_text_stays_text_everywhere(tab: Any, report: str) -> None:
    _open(tab, report)
    assert "<img src=x onerror=alert(1)>" in tab.inner_text("#warnings")
    assert "<img src=x onerror=alert(1)>" in tab.inner_text("#failures pre >> nth=0")
    assert "<img src=x onerror=alert(1)>" in tab.inner_text("#proposers")
    assert "<script>alert(2)</script>" in tab.inner_text(f"#trials tr[data-trial='{EVIL}']")
    tab.click(f"#trials tr[data-trial='{EVIL}'] a")
    dialog = _shown(tab, EVIL)
    dialog.locator("summary").first.click()
    for part in ("blockquote", "p.soft >> nth=0", "pre >> nth=0", "pre >> nth=1", "details pre >> nth=0"):
        text = dialog.locator(part).inner_text()
        assert "<img src=x onerror=alert(1)>" in text, part
        assert not re.search("[\x1b\u202e]", text), part
    tab.evaluate("location.hash = 'trial-12'")  # a knob that nobody has, blocked
    assert "<img src=x onerror=alert(1)>" in _shown(tab, 12).locator("ol.rails").inner_text()
    assert tab.locator("img, main b b, dialog b b, main script, dialog script").count() == 0


def test_each_answer_of_a_talk_stays_text(tab: Any, tmp_path: Path) -> None:
    attempts = [Attempt("", HOSTILE, "schema", HOSTILE), Attempt(HOSTILE, f"{{{HOSTILE}", None, HOSTILE)]
    (folder := make_study(tmp_path)).store.open_trial(0, Proposal("{}", "llm", HOSTILE, HOSTILE, attempts=attempts))
    _open(tab, f"{write_report(folder).as_uri()}#trial-1")
    text = next(text for text in _shown(tab, 1).locator("pre").all_inner_texts() if "> answer 2 of 2" in text)
    assert text.count("<img src=x onerror=alert(1)><script>alert(2)</script>") == 5, "two answers, two reasons, asked"
    assert not re.search("[\x1b\u202e]", text) and tab.locator("img, dialog b b, dialog script").count() == 0


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
    assert _visible(tab) == KEPT
    tab.fill("#filter", "LR 0.001")
    assert _visible(tab) == [1]
    assert tab.inner_text("#count") == "1 of 18 trials"
    tab.fill("#filter", "no such thing")
    assert _visible(tab) == []


def test_a_heading_sorts_both_ways_and_trials_without_a_value_come_last(
    tab: Any, report: str, told: ReportFacts
) -> None:
    _open(tab, report)
    scores = {trial.number: trial.value for trial in told.trials}
    ranked = sorted((n for n in scores if scores[n] is not None), key=lambda n: scores[n] or 0.0)
    without = [n for n in scores if scores[n] is None]
    heading = tab.get_by_role("button", name="val_bpb")
    heading.click()
    assert _visible(tab) == ranked + without
    heading.click()
    assert _visible(tab) == ranked[::-1] + without
    assert tab.locator("#trials th[aria-sort=descending]").inner_text().strip().startswith("val_bpb")


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


def test_the_open_trial_holds_diff_verdicts_runs_curve_prompt_and_answer(
    tab: Any, report: str, hostile_night: StudyFolder
) -> None:
    _open(tab, f"{report}#trial-{BLOCKED}")
    assert "\u2717 blocked by range" in _shown(tab, BLOCKED).locator("ol.rails .blocked").inner_text()
    tab.evaluate("location.hash = 'trial-6'")
    dialog, known = _shown(tab, 6), details(hostile_night)[6]
    assert known.prompt and known.answer
    assert dialog.locator("pre .plus").inner_text() == f"+lr = {GOOD}"
    assert _cells(tab, "#trial") == known.runs.rows and len(known.runs.rows) > 2
    assert known.summary in _plain(dialog.inner_text())
    assert dialog.locator("figure svg path").count() > 1
    dialog.locator("summary").first.click()
    assert dialog.locator("details pre").first.inner_text() == known.prompt, "letter by letter, arrows too"
    assert dialog.locator("summary").first.inner_text() == f"What it was shown ({known.shown})"
    assert known.answer in dialog.inner_text()
    assert "meta/llama-3.1-8b-instruct, answered in 1.9 s" in _plain(dialog.inner_text())


def test_a_point_of_a_chart_opens_its_trial(tab: Any, report: str) -> None:
    _open(tab, report)
    tab.locator("[data-chart=best] path[aria-label^='trial: 5;']").first.click()
    assert "Trial 5" in _shown(tab, 5).inner_text()


def test_one_terrible_trial_does_not_squash_the_picture(tab: Any, report: str, told: ReportFacts) -> None:
    _open(tab, report)
    labels = tab.locator("[data-chart=best] .mark-text.role-axis-label text").all_text_contents()
    assert max(float(label) for label in labels if "." in label) < 3.2  # trial 4 has 6.0
    assert "\u25b2" in tab.locator("[data-chart=best] svg").text_content()
    assert f"the farthest at {told.trials[OUTLIER].score}" in _plain(tab.inner_text("[data-chart=best] figcaption"))


def test_a_phone_needs_no_sideways_scroll(tab: Any, report: str) -> None:
    tab.set_viewport_size(PHONE)
    _open(tab, report)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.evaluate(f"location.hash = 'trial-{EVIL}'")
    assert _shown(tab, EVIL).evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")


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
    folder = make_study(tmp_path)
    _open(tab, f"{write_report(folder).as_uri()}#trial-0")
    assert "Trial 0" in _shown(tab, 0).inner_text()
    assert "not running" in tab.inner_text("#status") and tab.locator("figure:visible").count() == 1


def test_a_page_of_two_thousand_trials_filters(tab: Any, tmp_path: Path) -> None:
    folder = make_long_study(tmp_path, 2000, prompt_bytes=0)
    _open(tab, write_report(folder).as_uri())
    tab.select_option("#outcome", "keep")
    assert _visible(tab) == [trial.number for trial in folder.store.trials() if trial.decision == "keep"]
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


def test_an_imported_night_leaves_out_what_it_cannot_know(tab: Any, theirs: Path) -> None:
    _open(tab, write_report(StudyFolder(theirs, "theirs")).as_uri())
    assert "imported from trajectory.jsonl" in tab.inner_text("h1")
    assert "the farthest at 13.7575" in tab.inner_text("[data-chart=best] figcaption")
    for left_out in ("best_by_energy", "energy", "curves"):
        assert tab.is_hidden(f"[data-chart={left_out}]")
    assert tab.locator("h2:visible", has_text="energy").count() == 0


# --- live ---


@pytest.fixture
def home(hostile_night: StudyFolder, tmp_path: Path) -> Path:
    """A copy of the night, to go on with."""
    return Path(shutil.copytree(hostile_night.path.parent, tmp_path / "home"))


@pytest.fixture
def server(home: Path) -> Iterator[httpx.Client]:
    with served(home) as client:
        yield client


def _look_again(tab: Any) -> None:
    """What the page does when a person comes back to it, and every two seconds besides."""
    tab.evaluate("dispatchEvent(new Event('visibilitychange'))")


def test_a_new_trial_appears_without_reload_and_nothing_else_moves(server: httpx.Client, home: Path, tab: Any) -> None:
    _open(tab, str(server.base_url))
    tab.fill("#filter", "n_head")
    tab.select_option("#outcome", "discard")
    tab.get_by_role("button", name="val_bpb").click()
    assert _visible(tab) == [16, OUTLIER]
    tab.evaluate("document.querySelector('#filter').scrollIntoView({behavior: 'instant'})")
    place = tab.locator("#filter").bounding_box()["y"]
    tab.evaluate("location.hash = 'trial-16'")
    _shown(tab, 16)
    folder = StudyFolder(home, "one")
    run_study(folder, [*ANSWERS, change("n_head", 2)], workers=1)
    assert folder.store.trials()[-1].decision == "discard"
    _look_again(tab)
    tab.wait_for_selector("html[data-trials='19']")
    # By itself the page may have looked while the trial was still running.
    tab.wait_for_selector("#trials tr[data-trial='18'].discard:not(.out)")
    scores = {number: folder.store.trials()[number].val_bpb for number in (16, OUTLIER, 18)}
    assert _visible(tab) == sorted(scores, key=lambda number: scores[number] or 0.0)
    assert tab.evaluate("document.querySelector('#trial').open")
    assert tab.locator("#filter").bounding_box()["y"] == pytest.approx(place, abs=1), (
        "what grew above it pushed nothing"
    )
    assert tab.locator("#trials th[aria-sort=ascending]").inner_text().strip().startswith("val_bpb")


def test_an_unchanged_study_is_not_sent_twice(server: httpx.Client, tab: Any) -> None:
    _open(tab, str(server.base_url))
    with tab.expect_response(lambda answer: answer.url.endswith("facts.json")) as answer:
        _look_again(tab)
    assert answer.value.status == 304


def test_pause_and_resume_are_sent_and_shown(server: httpx.Client, home: Path, tab: Any) -> None:
    _open(tab, str(server.base_url))
    assert tab.is_disabled("#resume")
    tab.click("#pause")
    tab.wait_for_selector("#resume:enabled")
    controls = [StudyFolder(home, "one").store.control]
    assert "not running, paused" in tab.inner_text("#status")
    tab.click("#resume")
    tab.wait_for_selector("#pause:enabled")
    folder = StudyFolder(home, "one")
    assert [*controls, folder.store.control] == ["pause", "run"] and "paused" not in tab.inner_text("#status")
    assert [event["message"] for event in folder.store.events(2)] == ["paused from the page", "resumed from the page"]


def test_a_server_that_refuses_or_is_gone_is_told_in_one_line_and_the_page_stays(home: Path, tab: Any) -> None:
    with served(home, TOKEN) as server:
        _open(tab, f"{server.base_url}/?token={TOKEN}")
        cookies = tab.context.cookies()
        tab.context.clear_cookies()
        _look_again(tab)
        tab.wait_for_selector("#notice:has-text('token')")
        tab.context.add_cookies(cookies)
        _look_again(tab)
        tab.wait_for_selector("#notice:empty", state="hidden")
    _look_again(tab)
    tab.wait_for_selector("#notice:has-text('is gone')")
    assert _visible(tab) == list(range(len(ANSWERS) + 1))
    tab.close()
    tab.troubles.clear()  # the browser itself logs each refused request
