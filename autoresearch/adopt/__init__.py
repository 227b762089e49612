"""A stranger's script becomes a study, and what the study found goes back into the script's repository."""
