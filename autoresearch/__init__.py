"""The study loop and everything around it: proposers, git, store, decision, energy, schedule, command line."""

__version__ = "0.1.0"
