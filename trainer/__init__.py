"""Turns one recipe, one seed and one budget into one val_bpb; knows nothing of studies, proposers or git."""
