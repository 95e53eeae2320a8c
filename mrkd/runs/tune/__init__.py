"""Hyperparameter searches: trials, refits and tests."""
