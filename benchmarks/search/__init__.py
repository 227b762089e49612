"""The benchmark that searches are raced on: recorded real runs, surrogates fitted to them, and the races."""
