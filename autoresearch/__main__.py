"""python -m autoresearch."""

from autoresearch.cli import main

main()
