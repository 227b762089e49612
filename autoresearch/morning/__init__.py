"""The morning: the report, its live page, trackers, and what a longer budget says and costs."""
