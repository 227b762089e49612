"""Draws a study's progress: python docs/night_picture.py STUDY_FOLDER docs/night.svg (needs the extra [docs]).

One point a trial by its decision, with its 95 % interval, and the incumbent's mean as a line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import altair as alt

from autoresearch.evidence import Evidence
from autoresearch.folder import StudyFolder

SHAPES = {"baseline": "diamond", "keep": "circle", "discard": "cross"}
COLOURS = {"baseline": "#555555", "keep": "#0072b2", "discard": "#d55e00"}  # told apart by the colour-blind too


def rows(folder: StudyFolder) -> list[dict[str, Any]]:
    trials = [trial for trial in folder.store.trials() if trial.val_bpb is not None]
    noise = Evidence(folder).noise
    found, best = [], None
    for trial in trials:
        outcome = trial.decision or "baseline"
        best = trial if outcome in ("keep", "baseline") else best
        assert trial.val_bpb is not None and best is not None
        half = noise.half_width(trial.n_runs)
        knobs = ", ".join(f"{knob} {value:g}" for knob, value in trial.changes.items() if not isinstance(value, str))
        found.append(
            {
                "trial": trial.number,
                "val_bpb": trial.val_bpb,
                "low": trial.val_bpb - half,
                "high": trial.val_bpb + half,
                "outcome": outcome,
                "incumbent": best.val_bpb,
                "label": knobs if outcome == "keep" else "",
            }
        )
    return found


def chart(folder: StudyFolder) -> alt.LayerChart:
    data = alt.Data(values=rows(folder))
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(padding=28, nice=False))
    y = alt.Y("val_bpb:Q", title="validation bits per byte", scale=alt.Scale(zero=False, padding=24))
    outcome = alt.Color("outcome:N", title=None, scale=alt.Scale(domain=[*COLOURS], range=[*COLOURS.values()]))
    shape = alt.Shape("outcome:N", title=None, scale=alt.Scale(domain=[*SHAPES], range=[*SHAPES.values()]))
    base = alt.Chart(data)
    return (
        alt.layer(
            base.mark_line(interpolate="step-after", color=COLOURS["keep"], opacity=0.5).encode(
                x, y=alt.Y("incumbent:Q")
            ),
            base.mark_rule(opacity=0.6).encode(x, y=alt.Y("low:Q"), y2="high:Q", color=outcome),
            base.mark_point(filled=True, size=70, opacity=1).encode(x, y, color=outcome, shape=shape),
            base.mark_text(dy=22, fontSize=11).encode(x, y, text="label:N"),
        )
        .properties(
            width=640,
            height=300,
            title=f"{folder.settings.preset}: every trial with its 95 % interval, the line is the incumbent",
        )
        .configure_view(stroke=None)
        .configure(background="white")
    )


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    chart(StudyFolder(path.parent, path.name)).save(sys.argv[2])
