"""A study on disk: its folder, its git repository, its database, and what a proposer saw at any trial."""
