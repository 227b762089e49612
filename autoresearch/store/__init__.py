"""The database of a study, the single source of truth: all SQL of the project is in this folder."""

from autoresearch.store.trajectory import Control, Trajectory

__all__ = ["Control", "Store"]


class Store(Trajectory):
    """study.db of one study: its trajectory."""
