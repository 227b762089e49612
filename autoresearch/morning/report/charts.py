"""The charts of the report page as Vega-Lite specifications without data, and their two themes."""

from __future__ import annotations

from typing import Any

import altair as alt

# An outcome has its place in the ranges of both themes, so that colour and shape tell the same thing.
OUTCOMES = [
    "keep", "discard", "baseline", "blocked", "failed", "timed out", "abandoned", "running", "proposed", "carried",
    "stopped",
]  # fmt: skip
SHAPES = [
    "circle", "cross", "diamond", "square", "triangle-up", "triangle-down", "triangle-left", "circle", "circle",
    "wedge", "stroke",
]  # fmt: skip
ROLES = ["incumbent", "kept", "reference"]
# Okabe and Ito's colours, of which each theme takes those with a contrast of 3 or more on its ground.
BLUE, SKY, GREEN, VERMILION, PURPLE = "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7"
FONT = "system-ui, sans-serif"
TRIALS = alt.NamedData("trials")
# Hours of search squeeze into the width of a phone; ticks must stay whole trials.
WHOLE = alt.Axis(tickMinStep=1, format="d", grid=False)
STEPS = alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, 'd')", ticks=False, grid=False)
TRIED = alt.Axis(values=alt.ExprRef("ticks"), format=".6~g", grid=False)
NAMED = alt.Axis(labelAngle=0, labelLimit=70, labelOverlap=True)
ENERGY = "datum.value >= 1000 ? format(datum.value / 1000, ',.3~r') + ' kWh' : format(datum.value, ',.3~r') + ' Wh'"

Spec = dict[str, Any]
Drawn = alt.Chart | alt.LayerChart | alt.FacetChart


def specs() -> dict[str, Spec]:
    """Name -> specification. The page gives each its rows, under the name of its data; in its titles, for what stands
    in braces, the words that the study's metric has for it (MetricFacts); and the parameters that its expressions name:
    low and high (the vertical range), dot (size), faint (opacity), ticks, outcomes, roles."""
    found = {
        "best": _best(alt.X("number:Q", title="trial", axis=WHOLE, scale=alt.Scale(nice=False, padding=12)), 320),
        "best_by_energy": _best(
            alt.X(
                "watt_hours:Q",
                title="energy spent so far",
                axis=alt.Axis(labelExpr=ENERGY, grid=False, labelOverlap=True, tickCount=8),
                scale=alt.Scale(nice=False, padding=12),
            ),
            240,
        ),
        "compute": _compute(),
        "effect_linear": _effect(
            alt.X("number:Q", title=None, axis=TRIED, scale=alt.Scale(zero=False, padding=14, nice=False))
        ),
        "effect_log": _effect(
            alt.X("number:Q", title=None, axis=TRIED, scale=alt.Scale(type="log", padding=14, nice=False))
        ),
        "effect_names": _effect(alt.X("value:N", title=None, axis=NAMED, sort=None)),
        "lineage": _lineage(),
        "curves": _curves("{read}", legend=True),
        "runs": _curves("step", legend=False),
        "wall": _wall(),
        "energy": _energy(),
        "repeats": _repeats(),
    }
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    return {name: chart.properties(width="container", autosize=fit).to_dict() for name, chart in found.items()}


def themes() -> dict[str, Spec]:
    return {
        "light": _theme("#ffffff", "#1b1f24", "#57606a", "#e4e7ea", "#767676", BLUE),
        "dark": _theme("#14171a", "#eceff1", "#a4adb5", "#2b3136", "#8c8c8c", SKY),
    }


def _theme(ground: str, ink: str, soft: str, line: str, grey: str, accent: str) -> Spec:
    axis = {
        "labelColor": soft, "titleColor": soft, "gridColor": line, "domainColor": line, "tickColor": line,
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
    }  # fmt: skip
    return {
        "background": ground,
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelColor": soft, "titleColor": soft, "labelFontSize": 12, "symbolStrokeWidth": 2},
        "range": {
            "category": [accent, grey, ink, PURPLE, VERMILION, VERMILION, grey, GREEN, GREEN, accent, grey],
            "symbol": SHAPES,
        },
        "style": {
            "best": {"color": accent},
            "band": {"color": accent},
            "bar": {"color": accent},
            "thread": {"color": grey},
            "zero": {"color": soft},
            "word": {"color": ink, "fontSize": 11, "font": FONT},
        },
    }


def _outcome(legend: bool = True) -> tuple[alt.Color, alt.Shape]:
    shown = (
        alt.Legend(
            title=None,
            orient="top",
            values=alt.ExprRef("outcomes"),
            columns=alt.ExprRef("width < 480 ? 3 : 11"),
            symbolSize=70,
        )
        if legend
        else None
    )
    scale = alt.Scale(domain=OUTCOMES)
    return alt.Color("outcome:N", scale=scale, legend=shown), alt.Shape("outcome:N", scale=scale, legend=shown)


def _frame(title: str | None, **axis: Any) -> alt.Y:
    """The vertical scale from parameters: the page picks a range that one terrible trial does not blow up."""
    scale = alt.Scale(domainMin=alt.ExprRef("low"), domainMax=alt.ExprRef("high"), zero=False, nice=False)
    return alt.Y("y:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def _tips() -> list[alt.Tooltip]:
    names = {"number": "trial", "change": "change", "outcome": "outcome", "score": "{axis}", "n_runs": "runs"}
    names |= {"better": "better by"}
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in names.items()]


def _best(x: alt.X, height: int) -> Drawn:
    base = alt.Chart(TRIALS).encode(x=x)
    y = _frame("{best}", tickCount=6)
    return alt.layer(
        base.mark_area(interpolate="step-after", style="band", opacity=0.13, clip=True).encode(
            y=alt.Y("best_low:Q"), y2="best_high:Q"
        ),
        base.transform_filter("datum.best !== null")
        .mark_line(interpolate="step-after", style="best", strokeWidth=2, clip=True)
        .encode(y=alt.Y("best:Q")),
        *_outcomes(base, y, ("interval_low", "interval_high"), _tips(), "datum.value !== null && !datum.arrow"),
    ).properties(height=height)


def _compute() -> Drawn:
    """Each scored trial by what a run of it took and what it gained, both against the baseline."""
    x = alt.X(
        "flops_over_baseline:Q",
        title="FLOPs of a run, over the baseline's",
        axis=alt.Axis(
            values=alt.ExprRef("ticks"), labelExpr="format(datum.value, '.3~r') + ' x'", labelOverlap=True, grid=False
        ),
        scale=alt.Scale(type="log", nice=False, padding=24),
    )
    base = alt.Chart(TRIALS).encode(x=x)
    y = _frame("{gain_unit} better than the baseline", tickCount=6, format="+.2~f")
    tips = [*_tips(), alt.Tooltip("compute:N", title="compute")]
    zero = alt.Chart(alt.NamedData("zero"))
    return alt.layer(
        zero.mark_rule(style="zero", strokeDash=[3, 3]).encode(y=alt.Y("y:Q")),
        zero.mark_rule(style="zero", strokeDash=[3, 3]).encode(x=alt.X("x:Q")),
        *_outcomes(base, y, ("gain_low", "gain_high"), tips, "!datum.arrow"),
    ).properties(height=240)


def _outcomes(
    base: alt.Chart, y: alt.Y, interval: tuple[str, str], tips: list[alt.Tooltip], has_interval: str
) -> list[alt.Chart]:
    """Each trial as a point with its interval, or as an arrow at the edge that it lies beyond; keeps stand out."""
    colour, shape = _outcome()
    kept = "datum.outcome === 'keep' || datum.outcome === 'baseline'"
    low, high = interval
    return [
        base.transform_filter(has_interval)
        .mark_rule(clip=True, strokeWidth=1.2)
        .encode(
            y=alt.Y(f"{low}:Q"),
            y2=f"{high}:Q",
            color=colour,
            opacity=alt.condition(kept, alt.value(0.9), alt.value(alt.ExprRef("faint"))),
        ),
        base.transform_filter("!datum.arrow")
        .mark_point(filled=True, cursor="pointer", opacity=1)
        .encode(
            y=y,
            color=colour,
            shape=shape,
            size=alt.condition(kept, alt.value(95), alt.value(alt.ExprRef("dot"))),
            tooltip=tips,
        ),
        base.transform_filter("datum.arrow")
        .mark_text(fontSize=13, cursor="pointer")
        .encode(y=y, text="arrow:N", color=colour, tooltip=tips),
    ]


def _effect(x: alt.X) -> Drawn:
    colour, shape = _outcome(legend=False)
    base = alt.Chart(alt.NamedData("values")).encode(x=x, color=colour)
    y = _frame(None, tickCount=4, format="+.2~f")
    tips = [
        alt.Tooltip("value:N", title="value"),
        alt.Tooltip("better:N", title="better by"),
        alt.Tooltip("proposed:Q", title="proposed"),
        alt.Tooltip("trained:Q", title="trained"),
        alt.Tooltip("kept:Q", title="kept"),
    ]
    return alt.layer(
        alt.Chart(alt.NamedData("zero")).mark_rule(style="zero", strokeDash=[3, 3]).encode(y=alt.Y("y:Q")),
        base.mark_rule(clip=True, strokeWidth=1.5).encode(y=alt.Y("interval_low:Q"), y2="interval_high:Q"),
        base.transform_filter("!datum.arrow")
        .mark_point(filled=True, size=60, opacity=1)
        .encode(y=y, shape=shape, tooltip=tips),
        base.transform_filter("datum.arrow").mark_text(fontSize=12).encode(y=y, text="arrow:N", tooltip=tips),
    ).properties(height=130)


def _lineage() -> Drawn:
    """A comb: each parent's line goes up one step, then along to its children; the kept chain is drawn over it."""
    colour, shape = _outcome()
    base = alt.Chart(TRIALS)
    x = alt.X("number:Q", title="trial", axis=WHOLE, scale=alt.Scale(nice=False, padding=12))
    y = alt.Y("generation:Q", title="steps from the baseline", axis=STEPS, scale=alt.Scale(padding=14, nice=False))
    born = base.transform_filter("datum.parent !== null")
    chain = born.transform_filter("datum.chain")
    up = dict(x=alt.X("parent:Q"), y=alt.Y("parent_generation:Q"), y2="generation:Q")
    along = dict(x=alt.X("parent:Q"), x2="number:Q", y=alt.Y("generation:Q"))
    points: dict[str, Any] = dict(x=x, y=y, color=colour, shape=shape, tooltip=_tips())
    mark: dict[str, Any] = dict(filled=True, cursor="pointer", opacity=1)
    return alt.layer(
        born.mark_rule(style="thread", opacity=0.5).encode(**up),
        born.mark_rule(style="thread", opacity=0.5).encode(**along),
        base.transform_filter("!datum.chain")
        .mark_point(**mark)
        .encode(**points, size=alt.SizeValue(alt.ExprRef("dot"))),
        chain.mark_rule(style="best", strokeWidth=3).encode(**up),
        chain.mark_rule(style="best", strokeWidth=3).encode(**along),
        base.transform_filter("datum.chain").mark_point(**mark, size=95).encode(**points),
        base.transform_filter("datum.label")
        .mark_text(
            style="word",
            align=alt.ExprRef("datum.late ? 'right' : 'left'"),
            dx=alt.ExprRef("datum.late ? -9 : 9"),
            dy=12,
            limit=alt.ExprRef("width < 480 ? 130 : 260"),
        )
        .encode(x=x, y=y, text="label:N"),
    ).properties(height=240)


def _curves(x_title: str, legend: bool) -> Drawn:
    scale = alt.Scale(domain=ROLES)
    roles = alt.Legend(title=None, orient="top", values=alt.ExprRef("roles"), symbolType="stroke", symbolSize=250)
    shown = roles if legend else None
    dash = alt.Scale(domain=ROLES, range=[[1, 0], [1, 0], [6, 4]])
    return (
        alt.Chart(alt.NamedData("points"))
        .mark_line(clip=True)
        .encode(
            x=alt.X("x:Q", title=x_title, axis=alt.Axis(grid=False, format="~s"), scale=alt.Scale(nice=False)),
            y=_frame("{loss}", tickCount=6),
            color=alt.Color("role:N", scale=scale, legend=shown),
            strokeDash=alt.StrokeDash("role:N", scale=dash, legend=shown),
            strokeWidth=alt.condition("datum.role === 'incumbent'", alt.value(2.5), alt.value(1.2)),
            detail="run:N",
            order=alt.Order("x:Q"),
            tooltip=[alt.Tooltip("label:N", title="run")],
        )
        .properties(height=260)
    )


def _wall() -> Drawn:
    base = alt.Chart(alt.NamedData("parts")).encode(
        x=alt.X("seconds:Q", axis=None, scale=alt.Scale(domainMax=alt.ExprRef("high"), domainMin=0, nice=False)),
        y=alt.Y("part:N", title=None, sort=None, axis=alt.Axis(labelLimit=120, domain=False, ticks=False)),
        tooltip=[alt.Tooltip("part:N"), alt.Tooltip("label:N", title="time")],
    )
    return alt.layer(
        base.mark_bar(style="bar", height=14),
        base.mark_text(style="word", align="left", dx=6).encode(text="label:N"),
    ).properties(height=210)


def _energy() -> Drawn:
    return (
        alt.Chart(TRIALS)
        .mark_rect(cursor="pointer")
        .encode(
            x=alt.X("start:Q", title="trial", axis=WHOLE, scale=alt.Scale(nice=False)),
            x2="end:Q",
            y=alt.Y("watt_hours:Q", title=None, axis=alt.Axis(labelExpr=ENERGY, tickCount=5)),
            y2=alt.datum(0),
            color=alt.Color("source:N", title=None, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("number:Q", title="trial"),
                alt.Tooltip("energy:N", title="energy"),
                alt.Tooltip("source:N", title="source"),
            ],
        )
        .properties(height=180)
    )


def _repeats() -> Drawn:
    return (
        alt.Chart(alt.NamedData("windows"))
        .mark_rect(style="bar")
        .encode(
            x=alt.X("start:Q", title="trial", axis=WHOLE, scale=alt.Scale(nice=False)),
            x2="end:Q",
            y=alt.Y(
                "repeat_rate:Q",
                title=None,
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
            ),
            y2=alt.datum(0),
            tooltip=[alt.Tooltip("trials:N", title="proposals"), alt.Tooltip("repeated:N")],
        )
        .properties(height=140)
    )
