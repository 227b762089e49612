"""Tells which classes of device may do a study's runs: the first's own, and those that repeat its runs as well."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from autoresearch import words
from autoresearch.decide import Noise, Offset, offset
from autoresearch.study.folder import StudyFolder
from autoresearch.study.store.repeats import RepeatedRun
from autoresearch.workers.admission import Admitted, Answer, Refused, Repeat, Repeated
from rails import clean
from trainer.protocol import RunRequest

# Runs that another class repeats before it does any of its own. Where the same seed soon takes another way there, so
# many show a difference of two run-to-run deviations; where it does not, one of far less.
REPEATS, FEWEST = 5, 3
# Of one and the same run: several may be lost together with one node, which says nothing of its class.
MAX_FAILURES = 2


class DeviceClasses:
    """See Admission. device: the class that a study without runs begins with."""

    def __init__(self, folder: StudyFolder, device: str) -> None:
        self._folder, self._store = folder, folder.store
        self._own = folder.store.first_device() or device
        self._under_way: dict[tuple[str, str], RepeatedRun] = {}  # by device and run id; their scores are not known yet
        self._failures: dict[tuple[str, str], list[str]] = {}  # likewise, the reasons

    def answer(self, device: str) -> Answer:
        if device == self._own:
            return Admitted()
        if "seconds" in self._folder.settings.budget:
            return Refused(
                f"it has {device}, and runs of this study have {self._own}: a budget in seconds buys another training "
                "there (choose nodes by workers.labels)"
            )
        for (where, _), reasons in self._failures.items():
            if where == device and len(reasons) >= MAX_FAILURES:
                return Refused(f"runs made on {self._own} cannot be repeated on {device}: {reasons[-1]}")
        if len(self._taken(device)) < REPEATS and (found := self._next(device)):
            repeat, request = found
            self._under_way[device, request.run_id] = repeat
            return Repeat(request, self._folder.settings.limits.run_seconds)
        if not self._taken(device) and self._store.scores_on(self._own):
            return Refused(f"no run made on {self._own} can be repeated on {device}: runs/*/request.json are gone")
        if not self._is_compared(device):
            return None
        known, noise = self._known(device), self._folder.noise()
        return Refused(sentence(known, noise)) if _offset(known).matters(noise) else Admitted()

    def repeated(self, repeated: Repeated) -> str | None:
        result = repeated.result
        repeat = self._under_way.pop((repeated.device, repeated.run_id), None)
        if repeat is None or result.state == "cancelled":
            return None
        if result.state != "complete" or result.val_bpb is None:
            reasons = self._failures.setdefault((repeated.device, repeated.run_id), [])
            reasons.append(clean(result.message or result.state, 200))
            return None
        self._store.add_repeat(replace(repeat, val_bpb=result.val_bpb), repeated.energy)
        known = self._known(repeated.device)
        return sentence(known, self._folder.noise()) if self._is_compared(repeated.device) else None

    def forget(self) -> None:
        self._under_way.clear()

    def _known(self, device: str) -> list[RepeatedRun]:
        return [repeat for repeat in self._store.repeats() if (repeat.device, repeat.against) == (device, self._own)]

    def _taken(self, device: str) -> set[tuple[int, int]]:
        under_way = [repeat for (where, _), repeat in self._under_way.items() if where == device]
        return {(repeat.trial, repeat.seed) for repeat in (*self._known(device), *under_way)}

    def _is_compared(self, device: str) -> bool:
        """By as many runs as are wanted, or by all that there are: the study's own class may be there no more."""
        known, taken = len(self._known(device)), len(self._taken(device))
        return known == taken and known >= FEWEST and (known >= REPEATS or self._next(device) is None)

    def _next(self, device: str) -> tuple[RepeatedRun, RunRequest] | None:
        taken = self._taken(device)
        for (trial, seed), score in self._store.scores_on(self._own).items():
            if (trial, seed) not in taken and (request := self._request(trial, seed)):
                return RepeatedRun(trial, seed, device, self._own, float("nan"), score), request
        return None

    def _request(self, trial: int, seed: int) -> RunRequest | None:
        """As the run itself was asked for, with the text and the folder where they are now; None where that is no more
        to be read."""
        name = f"{trial:04d}-{seed}"
        place, data_dir = self._folder.run_folder(name), str(self._store.study()["data_dir"])
        with suppress(OSError, ValueError):
            asked = RunRequest.read(str(place / "request.json"))
            asked = replace(asked, data_dir=data_dir, result_path=str(place / "result.json"))
            return replace(asked, run_id=f"{name}-again", score_test=False, stop_above=[])
        return None


def sentence(pairs: Sequence[RepeatedRun], noise: Noise, is_decided: bool = True) -> str:
    """How far two classes differ, by runs of the same recipes and seeds, and what comes of it."""
    found, first = _offset(pairs), pairs[0]
    if not is_decided:
        comes = "it repeats more of them before it has runs of its own"
    else:
        comes = "no run of this study is done there" if found.matters(noise) else "its runs count as any other's"
    size = words.gain(found.value), words.difference(found.half_interval)
    return (
        f"{clean(first.device, 80)} scores {size[0]} ± {size[1]} bits per byte against {clean(first.against, 80)} "
        f"({words.count(found.n, 'pair')} of the same recipe and seed; one run deviates by "
        f"{words.difference(noise.deviation)}): {comes}"
    )


def _offset(pairs: Sequence[RepeatedRun]) -> Offset:
    return offset([pair.val_bpb - pair.val_bpb_against for pair in pairs])
