"""A corpus out of studies: rows, split by time, kept apart, balanced, and what is to be said of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.distill.corpus.balance import apart, balanced, distinct
from autoresearch.distill.corpus.nights import KnownNight, night_of
from autoresearch.distill.corpus.report import Report, StudyPart, part, too_thin, warnings
from autoresearch.distill.corpus.rows import rows_of
from autoresearch.distill.corpus.terms import Row, Terms
from autoresearch.facts import to_json
from autoresearch.study.folder import StudyFolder

TWICE, LEAKED, FREQUENT = "there already", "held out too", "too frequent"


@dataclass(frozen=True)
class Corpus:
    """Records as they are written, by the name of their file; what a decoder is taught; the report on all."""

    records: dict[str, list[dict[str, Any]]]
    nights: list[KnownNight]
    report: Report

    def jsonl(self, name: str) -> str:
        return _jsonl(self.records[name])


def make_corpus(folders: Sequence[StudyFolder], terms: Terms) -> Corpus:
    """Deterministic: the same studies on the same terms give the same bytes. Raises UserError for a study without
    trials; whether the corpus is too thin to teach is in its report."""
    studies = [rows_of(folder, terms) for folder in folders]
    left_out = sum((study.left_out for study in studies), Counter[str]())
    found, held_out = (
        [row for study in studies for row in study.train],
        [row for study in studies for row in study.held_out],
    )
    single = distinct(found)
    unleaked, leaks = apart(single, held_out)
    train = balanced(unleaked, terms.most_frequent)
    steps = {TWICE: (found, single), LEAKED: (single, unleaked), FREQUENT: (unleaked, train)}
    left_out.update({why: len(before) - len(after) for why, (before, after) in steps.items()})
    records = {"train": _records(train), "held_out": _records(held_out)}
    before, of_train = part(unleaked), part(train)
    report = Report(
        terms=terms,
        studies=[
            StudyPart(
                study.study,
                study.imported,
                study.trials,
                sum(row.study == study.study for row in train),
                len(study.held_out),
            )
            for study in studies
        ],
        train=of_train,
        held_out=part(held_out),
        train_before_balance=before,
        prompts=dict(sorted(Counter(row.prompt_source for row in [*train, *held_out]).items())),
        left_out={why: n for why, n in sorted(left_out.items()) if n},
        leaks_found=leaks,
        leaks_left=apart(train, held_out)[1],
        warnings=[*_unlike(folders), *warnings(studies, before, terms)],
        too_thin=too_thin(of_train, terms),
        sha256=hashlib.sha256("".join(map(_jsonl, records.values())).encode()).hexdigest(),
    )
    nights = [night for folder in folders if (night := night_of(folder, terms))]
    return Corpus(records, nights, report)


def _unlike(folders: Sequence[StudyFolder]) -> list[str]:
    """Weights are of deviations, and each prompt names what its study is scored by: such a corpus can be learned."""
    first, *others = (folder.metric for folder in folders)
    if all(metric.is_like(first) for metric in others):
        return []
    names = ", ".join(dict.fromkeys(metric.name for metric in (first, *others)))
    return [f"the studies are scored by different things: {names}"]


def _records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [record for row in rows for record in row.records()]


def _jsonl(records: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{to_json(record)}\n" for record in records)
