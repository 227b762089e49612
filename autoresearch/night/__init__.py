"""The night: the study loop, its session, its limits, and the daemon that wakes it."""
