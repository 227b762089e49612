"""Text on disk or by name -> train, val and test tokens that every run of a study shares. Needs no torch."""

from trainer.data.dataset import Dataset, Manifest, Split, manifest_of
from trainer.data.errors import DataError
from trainer.data.prepare import prepare

__all__ = ["DataError", "Dataset", "Manifest", "Split", "manifest_of", "prepare"]
