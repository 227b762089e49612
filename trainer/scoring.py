"""The scores of a trained model on a study's texts, and the looks at one of them on the way."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.data.dataset import Dataset
from trainer.metric import bits_per_byte, nats_per_token
from trainer.parallel import Cost
from trainer.protocol import RunRequest


@dataclass(frozen=True)
class Scoring:
    """report: called with phase (val, test, window), batches done, batches in all."""

    nats_of: Cost
    dataset: Dataset
    seq_len: int
    device: torch.device
    report: Callable[[str, int, int], None]

    def scores(self, request: RunRequest) -> dict[str, float | None]:
        """val_bpb, test_bpb and window_bpb, as far as they are asked for; they need not be finite."""
        found: dict[str, float | None] = {}
        if request.score or request.score_test:
            found["val_bpb"] = val_bpb = self._bits("val", "val", self.seq_len)
            if request.score_test:
                found["test_bpb"] = self._bits("test", "test", self.seq_len)
            found["window_bpb"] = self._in_windows(request.score_window, val_bpb)
        return found

    def look(self) -> float:
        """Nats per token of the validation text's start."""
        return nats_per_token(
            self.nats_of, self.dataset.val, self.dataset.manifest.endoftext, self.seq_len, self.device
        )

    def _in_windows(self, window: int | None, val_bpb: float) -> float | None:
        """The validation text's bits per byte in windows of so many tokens, by at most one more pass.

        None beyond seq_len: learned positions end there, and with rope, which does not, such a score would say how
        the model extrapolates to distances that it never saw, not how good the recipe is. Nor is a score that is no
        number a failure: the run is judged by val_bpb.
        """
        if window is None or window > self.seq_len:
            return None
        if window == self.seq_len or not math.isfinite(val_bpb):
            return val_bpb
        found = self._bits("window", "val", window)
        return found if math.isfinite(found) else None

    def _bits(self, phase: str, split: str, window: int) -> float:
        return bits_per_byte(
            self.nats_of,
            getattr(self.dataset, split),
            self.dataset.manifest.splits[split].bytes,
            self.dataset.manifest.endoftext,
            window,
            self.device,
            report=lambda done, batches: self.report(phase, done, batches),
        )
