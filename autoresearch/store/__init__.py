"""The database of a study, the single source of truth: all SQL of the project is in this folder."""

from autoresearch.store.imports import Imports
from autoresearch.store.promotions import Promotions
from autoresearch.store.trajectory import Control, Trajectory

__all__ = ["Control", "Store"]


class Store(Trajectory, Imports, Promotions):
    """study.db of one study: its trajectory, also by whole tables, and its promotions."""
