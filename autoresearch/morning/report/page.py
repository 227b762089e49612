"""The report as one HTML file: assets, charts and packed facts set into page.html."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.facts import to_bytes
from autoresearch.study.folder import StudyFolder
from trainer.cache import cache_folder

if TYPE_CHECKING:
    from autoresearch.morning.report.detail import TrialDetail
    from autoresearch.morning.report.facts import ReportFacts

SCRIPTS = ("page.js", "pictures.js", "trials.js", "live.js")


def write_report(folder: StudyFolder, *, running: bool | None = None) -> Path:
    """Writes report/index.html and report/report.md in the study's folder, each whole or not at all; the former.

    running: whether a night goes on; None: as the runner's lock tells.
    """
    from autoresearch.morning.report.detail import details
    from autoresearch.morning.report.facts import facts
    from autoresearch.morning.report.markdown import markdown

    known = facts(folder, running)
    target = folder.path / "report"
    target.mkdir(exist_ok=True)
    _put(target / "report.md", markdown(known))
    _put(target / "index.html", page(known, details(folder)))
    return target / "index.html"


def page(facts: ReportFacts | None = None, details: Mapping[int, TrialDetail] | None = None, live: bool = False) -> str:
    """The page with its facts inside; live: an empty one that fetches them from where it was served."""
    assert live == (facts is None)
    scripts = {"vega": _vega(), "script": _script()}
    parts = {
        "title": html.escape(f"{facts.study.name}: report" if facts else "autoresearch, live"),
        "live": "data-live" if live else "",
        "policy": _policy(scripts.values()),
        "style": _asset("page.css"),
        "charts": _charts(),
        "facts": _packed(facts) if facts else "",
        "details": _packed(_shared_lines(details or {})) if facts else "",
        **scripts,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _policy(scripts: Iterable[str]) -> str:
    """Only these very scripts run, none that a text smuggled in; and nothing is asked of any other host."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _vega() -> str:
    def bundle() -> str:
        import vl_convert

        text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        assert "</script" not in text and "<!--" not in text
        return text

    return _remembered("vega.js", bundle)


@cache
def _script() -> str:
    """One module, so that the parts see each other and nobody else does."""
    return "\n".join(_asset(name) for name in SCRIPTS)


@cache
def _charts() -> str:
    def drawn() -> str:
        from autoresearch.morning.report.charts import OUTCOMES, ROLES, specs, themes

        known = {"specs": specs(), "themes": themes(), "outcomes": OUTCOMES, "roles": ROLES}
        return json.dumps(known).replace("<", "\\u003c")

    return _remembered("charts.json", drawn)


def _remembered(name: str, make: Callable[[], str]) -> str:
    """What `make` gives, from the cache where these versions made it before: making it takes seconds, each start."""
    made_by = [version("altair"), version("vl-convert-python"), _asset("charts.py"), _asset("page.py")]
    key = hashlib.sha256("\n".join(made_by).encode()).hexdigest()[:16]
    text = None
    with suppress(OSError):  # where nothing at all can be written, that costs the seconds, not the report
        path = cache_folder() / "report" / f"{key}-{name}"
        with suppress(FileNotFoundError):
            return path.read_text(encoding="utf-8")
        text = make()
        path.parent.mkdir(exist_ok=True)
        _put(path, text)
    return make() if text is None else text


@cache
def _asset(name: str) -> str:
    return resources.files("autoresearch.morning.report").joinpath(name).read_text(encoding="utf-8")


def _packed(data: Any) -> str:
    """base64(gzip(JSON)): a fifth of the size, and no text in it can close a tag. The same bytes for the same data."""
    return base64.b64encode(gzip.compress(to_bytes(data), compresslevel=6, mtime=0)).decode()


def _shared_lines(details: Mapping[int, TrialDetail]) -> dict[str, Any]:
    """Each prompt as numbers of lines, each line once: a prompt repeats the menu and all of the history before it."""
    numbers: dict[str, int] = {}
    prompts = {
        number: [numbers.setdefault(line, len(numbers)) for line in detail.prompt.split("\n")]
        for number, detail in details.items()
        if detail.prompt is not None
    }
    trials = {number: replace(detail, prompt=None) for number, detail in details.items()}
    return {"lines": [*numbers], "prompts": prompts, "trials": trials}


def _put(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
