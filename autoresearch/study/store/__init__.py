"""The database of a study, the single source of truth: all SQL of the project is in this folder."""

from autoresearch.study.store.imports import Imports
from autoresearch.study.store.latest import Latest
from autoresearch.study.store.past import Past
from autoresearch.study.store.promotions import Promotions
from autoresearch.study.store.repeats import Repeats
from autoresearch.study.store.study_row import Control

__all__ = ["Control", "Store"]


class Store(Latest, Past, Imports, Promotions, Repeats):
    """study.db of one study: its trajectory, also as it once stood and by whole tables, its promotions and repeats."""
