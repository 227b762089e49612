"""The chart of an outcome: the best so far over runs, a panel a surrogate and one of real runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert  # noqa: F401  what altair draws SVG with

from autoresearch.distill.race.searches import REAL, bests, mean_of
from autoresearch.metric import Metric

if TYPE_CHECKING:
    from autoresearch.distill.race.outcome import Outcome

# Okabe and Ito's.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
WIDTH, HEIGHT = 380, 280


def draw(outcome: Outcome, path: Path) -> None:
    """Writes an SVG file. Bands are 95 % intervals over nights; one night has none."""
    names = list(dict.fromkeys(each.proposer for each in outcome.found))
    worlds = list(dict.fromkeys(each.world for each in outcome.found))
    panels = [_panel(_points(outcome, world), names, world, outcome.metric_in(world)) for world in worlds]
    chart: Any = alt.hconcat(*panels)
    chart.configure_view(stroke=None).configure(background="white").save(str(path), format="svg")


def _points(outcome: Outcome, world: str) -> list[dict[str, Any]]:
    runs, turned = outcome.runs_in(world), outcome.metric_in(world).turned
    return [
        {
            "who": each.proposer,
            "runs": place + 1,
            "mean": turned(found.mean),
            "low": None if found.low is None else turned(found.low),
            "high": None if found.high is None else turned(found.high),
        }
        for each in outcome.found
        if each.world == world
        for place, nights in enumerate(bests(outcome.searches, each.proposer, world, runs).T)
        if (found := mean_of(nights))
    ]


def _panel(points: list[dict[str, Any]], names: list[str], world: str, metric: Metric) -> Any:
    scale = alt.Scale(domain=names, range=COLOURS)
    colour = alt.Color("who:N", title=None, sort=names, scale=scale, legend=alt.Legend(symbolOpacity=1))
    base = alt.Chart(alt.Data(values=points)).encode(alt.X("runs:Q", title="runs"), colour)
    is_real, scale = world == REAL, alt.Scale(zero=False)
    y = f"{metric.name} of the incumbent" if is_real else f"true {metric.name}"
    band = base.mark_area(opacity=0.15).encode(alt.Y("low:Q", title=y, scale=scale), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2).encode(alt.Y("mean:Q", title=y, scale=scale))
    return alt.layer(*([] if is_real else [band]), line).properties(
        width=WIDTH, height=HEIGHT, title="real runs" if is_real else f"surrogate: {world}"
    )
