"""What is recorded and raced on: the preset cpu-nano, its menu and its budget; and where it says what came of it."""

from pathlib import Path

from autoresearch.proposers.space import Space
from autoresearch.study.preset import load_preset
from rails import Limits

PRESET = "cpu-nano"
RESULTS = Path(__file__).with_name("results")
CONFIRMED = "confirmed.json"  # there: what came of real nights


def the_space() -> Space:
    """The preset's, under its budget."""
    preset = load_preset(PRESET)
    limits = Limits(budget=preset.settings.whole_budget, vocab_size=preset.settings.data.vocab_size)
    return Space(preset.menu, limits)
