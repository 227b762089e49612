"""Trainings of students in child processes: a LoRA, and a decoder from nothing."""
