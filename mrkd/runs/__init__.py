"""Runs: what train, score, tune and evaluate do, over an executor that does their work."""
