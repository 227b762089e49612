"""The chart of a sweep: tokens per second against batch size, and beneath it the points that gave none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert  # noqa: F401  what altair draws SVG with

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]  # Okabe and Ito's
SHAPES = ["circle", "square", "triangle-up"]
DASHES = [[1, 0], [6, 4], [2, 2]]
WIDTH, HEIGHT, ROW_HEIGHT = 460, 280, 24


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes an SVG file from the rows of sweep.csv. Colour is sequence length; dashes and the points' shape are
    precision, so that the lines of one length are told apart without colour."""
    points = [{**row, "series": f"{row['seq_len']}, {row['precision']}"} for row in rows]
    measured = [point for point in points if point["tokens_per_second"] is not None]
    failed = [
        {**point, "why": f"\u00d7 {point['outcome'].replace('_', ' ')}"} for point in points if point not in measured
    ]
    batches = alt.Scale(domain=sorted({row["batch_size"] for row in rows}))
    x = alt.X("batch_size:O", title="batch size", scale=batches, axis=alt.Axis(labelAngle=0))
    colour = alt.Color(
        "seq_len:O",
        title="sequence length",
        scale=alt.Scale(domain=sorted({row["seq_len"] for row in rows}), range=COLOURS),
    )
    names = list(dict.fromkeys(row["precision"] for row in rows))
    dash = alt.StrokeDash("precision:N", title="precision", scale=alt.Scale(domain=names, range=DASHES))
    shape = alt.Shape("precision:N", title="precision", scale=alt.Scale(domain=names, range=SHAPES))
    y = alt.Y("tokens_per_second:Q", title="tokens per second")
    lines = alt.Chart(alt.Data(values=measured)).encode(x, y, colour)
    panels: list[Any] = [
        alt.layer(
            lines.mark_line(strokeWidth=2).encode(dash),
            lines.mark_point(filled=True, size=60, opacity=1).encode(shape),
        ).properties(width=WIDTH, height=HEIGHT)
    ]
    if failed:
        series = list(dict.fromkeys(point["series"] for point in failed))
        panels.append(
            alt.Chart(alt.Data(values=failed))
            .mark_text(fontSize=11)
            .encode(x, alt.Y("series:N", title=None, sort=series), text="why:N")
            .properties(width=WIDTH, height=ROW_HEIGHT * len(series), title="not measured")
        )
    first = rows[0]
    title = f"{first['preset']} with {first['backend']} on {first['device']}"
    chart = alt.vconcat(*panels, title=title).configure_view(stroke=None).configure(background="white")
    chart.save(str(path), format="svg")
