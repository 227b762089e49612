"""The picture of a race: what each arm would hand over after so many runs, a panel a surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import vl_convert  # noqa: F401  what altair draws PNG with

from autoresearch.distill.race.paired import Figure

from .arms import ARMS
from .race import Night

# Okabe and Ito's, and one more.
COLOURS = ["#555555", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#000000", "#882255"]
EVERY = 10  # runs between points
FIRST = 20
WIDTH, HEIGHT = 430, 380


def draw(nights: Sequence[Night], path: Path) -> None:
    """Writes a PNG. Bands are 95 % intervals of the mean over nights."""
    points = []
    drawn = [arm.name for arm in ARMS.values() if arm.is_drawn]
    groups: dict[tuple[str, str], list[Night]] = {}
    for night in nights:
        if night.job.arm in drawn:
            groups.setdefault((night.job.world, night.job.arm), []).append(night)
    for (world, arm), group in groups.items():
        truth = np.array([night.truth for night in group])
        for runs in range(FIRST, truth.shape[1] + 1, EVERY):
            figure = Figure.of(truth[:, runs - 1])
            low, high = figure.mean - figure.half, figure.mean + figure.half
            points.append({"world": world, "arm": arm, "runs": runs, "mean": figure.mean, "low": low, "high": high})
    names = [name for name in drawn if any(arm == name for _, arm in groups)]
    colour = alt.Color(
        "arm:N",
        title=None,
        sort=names,
        scale=alt.Scale(domain=names, range=COLOURS),
        legend=alt.Legend(orient="bottom", columns=4, symbolOpacity=1),
    )
    in_loop = [name for name in names if ARMS[name].in_loop]
    dash = alt.condition(alt.FieldOneOfPredicate("arm", in_loop), alt.value([6, 3]), alt.value([1, 0]))
    x = alt.X("runs:Q", title="runs")
    base = alt.Chart().encode(x, colour)
    scale = alt.Scale(zero=False)
    layers = alt.layer(
        base.mark_area(opacity=0.12).encode(alt.Y("low:Q", title="true val_bpb", scale=scale), alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(alt.Y("mean:Q"), strokeDash=dash),
        data=alt.Data(values=points),
    ).properties(width=WIDTH, height=HEIGHT)
    worlds = list(dict.fromkeys(world for world, _ in groups))
    panels = [
        layers.transform_filter(alt.FieldEqualPredicate(world, "world")).properties(title=f"surrogate: {world}")
        for world in worlds
    ]
    chart = alt.hconcat(*panels).configure_view(stroke=None).configure(background="white")
    chart.save(str(path), format="png", ppi=130)
