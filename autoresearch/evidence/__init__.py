"""What the runs say: the only place where sums over runs are made."""

from autoresearch.evidence.evidence import Evidence, Standing

__all__ = ["Evidence", "Standing"]
