"""What the page calls a study's metric: in its headings, beside its pictures and below them."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch import words
from autoresearch.metric import Metric

BITS_PER_BYTE = (
    "Bits per byte (bpb): how many bits the model needs to encode one byte of a text that it was not trained on; less "
    "is better."
)


@dataclass(frozen=True)
class MetricFacts:
    """column: over scores with their intervals. best, axis, loss, read: titles of pictures. gains_are: what a gain
    counts. sign: -1 where higher is better. meaning: a sentence on it, if there is one."""

    column: str
    axis: str
    best: str
    loss: str
    read: str
    gain_unit: str
    gains_are: str
    sign: int
    meaning: str


def metric_facts(metric: Metric) -> MetricFacts:
    ours = metric.is_bits_per_byte
    return MetricFacts(
        column=words.column(metric),
        axis=metric.axis,
        best=f"{metric.axis}, {'more' if metric.higher_is_better else 'less'} is better",
        loss="training loss, nats per token" if ours else "training loss",
        read="tokens read" if ours else "step",
        gain_unit=metric.gain_unit,
        gains_are=words.gains_are(metric),
        sign=-1 if metric.higher_is_better else 1,
        meaning=BITS_PER_BYTE if ours else "",
    )
