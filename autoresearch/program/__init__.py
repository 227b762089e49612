"""A trainer that is somebody's own program: how it is told a recipe, how it is run, how its score is read."""
