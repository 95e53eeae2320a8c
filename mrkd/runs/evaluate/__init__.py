"""Evaluations and ablations on Ray."""
