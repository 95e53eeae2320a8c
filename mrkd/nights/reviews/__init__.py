"""Verdicts of reviewers on what nights called: they are imported, and count from then on.

    labels -> matched with the rows of nights -> stored -> pages, thresholds, the next training

A verdict is on the bytes that were scored: where an image was overwritten since, it says nothing
of the new one.

Code that only shows them reads `store`, which is light; its neighbours are imported by themselves.
"""
