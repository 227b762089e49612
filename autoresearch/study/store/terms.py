"""The limits under which a trial was proposed, as the database keeps them: all of them but the measurements."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields

from rails import Limits, Measurement

KEPT = tuple(field.name for field in fields(Limits) if field.name != "measurements")


def limits_text(limits: Limits) -> str:
    return json.dumps({name: getattr(limits, name) for name in KEPT})


def limits_of(text: str, measurements: Iterable[Measurement]) -> Limits:
    found = json.loads(text)
    if found.get("precisions") is not None:
        found["precisions"] = tuple(found["precisions"])
    return Limits(**found, measurements=list(measurements))
