"""report.md says what the page says, lines up in a terminal, and takes no text of a model for markup."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sample_study import HOSTILE, KEPT
from studies import BAD, GOOD, change, make_study, query, run_study

from autoresearch import words
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import code, markdown, text
from autoresearch.morning.report.table import Column
from autoresearch.study.folder import StudyFolder
from rails import clean

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TRICKS = [
    HOSTILE, "<script>alert(1)</script>", "[a](javascript:alert(1))", "![a](http://evil/x.png)", "<http://evil>",
    "# heading", "> quote", "- item", "+ item", "* item", "1. one", "2) two", "---", "***", "===", "```", "~~~",
    "    indented", "\n\n# heading\n\n", "a\n---\nb", "| a | b |\n|---|---|\n| c | d |", "**b** _e_ __s__ ~~n~~", "a #",
    "`code` ``co`de``", "\\", "\\\\|", "\\`", "a \\", "&lt;b&gt; &#60;b&#62; &amp;", "[ref]: http://evil", "[^1]: note",
    "www.evil.org https://evil HTTP://EVIL", "x|y\\|z", "_a_", "a_b", "(_a)", "$x$", "\x1b[31mred\x1b[0m", "\u202eabc",
    "<!-- a comment", "<![CDATA[", "</details>", "{{ x }}", "[x] done", ": definition", "@someone", "",
]  # fmt: skip
PLACES = {
    "paragraph": "before\n\n{}\n\nafter",
    "heading": "# {}\n\nafter",
    "item": "- one\n- {}\n- three",
    "after a name": "- name: {}",
    "cell": "| a | b |\n| - | - |\n| {} | end |\n| 1 | 2 |",
}


def tricky_texts() -> Iterator[str]:
    yield from TRICKS
    rng = random.Random(0)
    alphabet = "\\`*_[]()<>|~$#&!@:/-+=.;\"' \n\tab1é漢"
    for _ in range(400):
        yield "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))


def inline(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens if token.type == "inline" for child in token.children or []]


def structure(source: str) -> list[str]:
    """All blocks and all markup in them; the text itself is left out."""
    tokens = PARSER.parse(source)
    return [child.type for token in tokens for child in [token, *(token.children or [])] if "text" not in child.type]


@pytest.mark.parametrize("place", PLACES)
def test_no_text_becomes_markup_wherever_it_stands(place: str) -> None:
    expected = structure(PLACES[place].format("plain"))
    around = "".join(token.content for token in inline(PARSER.parse(PLACES[place].format("\N{SNOWMAN}"))))
    for trick in tricky_texts():
        if not clean(trick):
            continue
        source = PLACES[place].format(text(trick))
        assert structure(source) == expected, (trick, source)
        shown = "".join(token.content for token in inline(PARSER.parse(source)))
        assert shown == around.replace("\N{SNOWMAN}", clean(trick, 120).replace("@", "＠")), source  # noqa: RUF001


def test_no_address_becomes_a_link_and_nobody_is_called() -> None:
    """GitHub links bare addresses and tells people whose names it finds."""
    shown = text("see https://evil.org and WWW.evil.org, @octocat")
    assert "://" not in shown and "www." not in shown.lower() and "@" not in shown


def test_lines_of_a_log_are_shown_letter_by_letter() -> None:
    for trick in tricky_texts():
        if clean(trick):
            (shown,) = inline(PARSER.parse(f"- {code(trick)}"))
            assert (shown.type, shown.content) == ("code_inline", clean(trick)), trick


def test_a_hostile_report_has_the_structure_of_a_friendly_one(hostile_night: StudyFolder) -> None:
    found = facts(hostile_night)
    friendly = structure(markdown(swapped(found, "plain words")))
    for trick in filter(clean, TRICKS):
        assert structure(markdown(swapped(found, trick))) == friendly, trick


def test_the_hostile_night_has_all_sections_and_no_markup_of_its_own(hostile_night: StudyFolder) -> None:
    report = markdown(facts(hostile_night))
    titles = [line.removeprefix("## ") for line in report.splitlines() if line.startswith("## ")]
    assert titles == [
        "Before you trust it", "What stands", "What the search explored", "Kept trials (3 of 17)",
        "Values by their mean effect", "At 16 times the budget", "Proposers", "Failures", "Energy and time",
    ]  # fmt: skip
    assert not {"html_block", "html_inline", "link_open", "image"} & {*structure(report)}
    assert [row[0] for row in table(report, "Kept trials (3 of 17)")] == [str(number) for number in KEPT]
    assert table(report, "At 16 times the budget")[1][2] == "diverged; seed 1001 at step 9"
    assert "onerror" in report.partition("## Proposers")[2].partition("## ")[0]


# What chooses a row, and a number of trials in words.
CHOSEN = {"outcome", "axis", "more"}


def swapped(found: Any, trick: str, key: str = "") -> Any:
    """The facts with another text for every text in them."""
    if isinstance(found, Column):  # headings are our own
        return found
    if is_dataclass(found) and not isinstance(found, type):
        return replace(found, **{it.name: swapped(getattr(found, it.name), trick, it.name) for it in fields(found)})
    if isinstance(found, list):
        return [swapped(item, trick, key) for item in found]
    return trick if isinstance(found, str) and found and key not in CHOSEN else found


def table(report: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = report.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1, "columns line up as they stand"
    return rows[2:]


def test_the_report_of_a_night_says_what_the_database_says(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD), change("lr", BAD), change("lr", 7.0), change("beta1", 0.51)])
    report = markdown(facts(folder))
    val_bpb, improvement, low, high = query(
        folder, "SELECT val_bpb, improvement, improvement_low, improvement_high FROM trials WHERE number = 1"
    )[0]
    runs = query(folder, "SELECT COUNT(*) FROM runs WHERE trial = 1 AND state = 'complete'")[0][0]
    (kept,) = table(report, "Kept trials (1 of 4)")
    assert kept[:2] == ["1", "lr 0.001 -> 0.004"] and kept[3].startswith(f"{val_bpb:.4f} ± ")
    assert kept[4:6] == [str(runs), f"{improvement:+.4f} [{low:+.4f}, {high:+.4f}]"]
    baseline, best = table(report, "What stands")
    assert (baseline[1], best[1]) == ("0", "1") and best[2].startswith(f"{val_bpb:.4f} ± ")
    effects = table(report, "Values by their mean effect")
    assert [row[1] for row in effects] == ["0.004", "0.0005"] and effects[0][5] == kept[5]
    assert "Never turned: n_layer" in report
    assert "- diverged: 1 run, trial 4\n  - `loss is NaN`" in report
    joules = query(folder, "SELECT SUM(energy_joules) FROM runs")[0][0]
    assert f"- {words.energy(joules, ['estimate'])}" in report
    for sentence in facts(folder).headline:
        assert text(sentence, 1200) in report


def test_a_study_without_a_run_has_a_report_without_numbers(tmp_path: Path) -> None:
    report = markdown(facts(make_study(tmp_path)))
    assert table(report, "What stands") == [["baseline", "0", "-", "0", "-", "0"]]
    assert "no energy was recorded" in report
    for absent in ("## Kept trials", "## Failures", "## Proposers", "None", " nan"):
        assert absent not in report


def test_what_an_import_lacks_is_no_number(theirs: Path) -> None:
    report = markdown(facts(StudyFolder(theirs, "theirs")))
    assert "imported from trajectory.jsonl (jsonl)" in report and "no energy was recorded" in report
    assert all(row[7] == "-" for row in table(report, "Kept trials (8 of 50)"))
