"""People's verdicts on what nights called: they come back as a table, and count from then on.

    labels -> matched with the rows of nights -> stored -> pages, thresholds, the next training

A verdict is on the bytes that were scored: where an image was overwritten since, it says nothing
of the new one.

Whoever only shows them reads `record`, which is light; its neighbours are imported by themselves.
"""
