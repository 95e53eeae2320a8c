"""Evaluations of champions, and ablations."""
