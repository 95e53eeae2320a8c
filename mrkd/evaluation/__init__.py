"""Metrics of labelled images, protocols, thresholds and ablations."""
