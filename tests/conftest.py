"""Torch runs on one thread in tests, as it does in workers: two that spin are slower beside other processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
