"""The chart of a race: a panel a figure, each proposer with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert  # noqa: F401  what altair draws SVG with

from autoresearch.distill.race.figures import Figures
from autoresearch.evidence.shares import Share
from autoresearch.metric import VAL_BPB, Metric

COLOURS = ["#0072b2", "#d55e00"]  # Okabe and Ito's
SHAPES = ["circle", "square"]
ONE, MODE = "one sample", "mode of several"
WIDTH, ROW_HEIGHT = 220, 34


def draw(columns: Sequence[Figures], path: Path, metric: Metric = VAL_BPB) -> None:
    """Writes an SVG file. A figure that nobody knows has no point."""
    shares = [
        point
        for column in columns
        for title, one, mode in (
            ("valid", column.valid, None),
            ("same knobs as the teacher", column.one.same_knobs, column.mode.same_knobs),
            ("exact match", column.one.exact, column.mode.exact),
        )
        for pick, share in ((ONE, one), (MODE, mode))
        if (point := _point(title, column.name, pick, share))
    ]
    earned = [
        {"who": column.name, "pick": ONE, "value": found.mean, "low": found.low, "high": found.high}
        for column in columns
        if (found := column.earned).mean is not None
    ]
    names = [column.name for column in columns]
    titles = list(dict.fromkeys(point["title"] for point in shares))
    scale = alt.Scale(domain=[0, 1])
    panels: list[Any] = [
        _panel([point for point in shares if point["title"] == title], names, title, scale, "%") for title in titles
    ]
    if earned:
        title = f"earned where measured, {metric.gain_unit}"
        panels.append(_panel(earned, names, title, alt.Scale(zero=True), "+.3~f"))
    chart = alt.concat(*panels, columns=2).configure_view(stroke=None).configure(background="white")
    chart.save(str(path), format="svg")


def _point(title: str, who: str, pick: str, share: Share | None) -> dict[str, Any] | None:
    if share is None or share.share is None:
        return None
    return {"title": title, "who": who, "pick": pick, "value": share.share, "low": share.low, "high": share.high}


def _panel(points: Sequence[dict[str, Any]], names: Sequence[str], title: str, scale: alt.Scale, form: str) -> Any:
    y, offset = alt.Y("who:N", title=None, sort=list(names)), alt.YOffset("pick:N", sort=[ONE, MODE])
    colour = alt.Color("pick:N", title=None, sort=[ONE, MODE], scale=alt.Scale(domain=[ONE, MODE], range=COLOURS))
    shape = alt.Shape("pick:N", title=None, sort=[ONE, MODE], scale=alt.Scale(domain=[ONE, MODE], range=SHAPES))
    x = alt.X("value:Q", title=None, scale=scale, axis=alt.Axis(format=form, tickCount=5))
    base = alt.Chart(alt.Data(values=list(points))).encode(y, offset, colour)
    return alt.layer(
        base.mark_rule(strokeWidth=2).encode(alt.X("low:Q", title=None), alt.X2("high:Q")),
        base.mark_point(filled=True, size=60, opacity=1).encode(x, shape),
    ).properties(width=WIDTH, height=ROW_HEIGHT * len(names), title=title)
