"""Calls that wait for each other: how many of them a cluster runs at once."""

import time


def meet(folder, crowd):
    """The most calls that were under way at once, after waiting until there are so many."""
    mark = folder / str(time.monotonic_ns())
    mark.touch()
    until, most = time.monotonic() + 60, 0
    while most < crowd and time.monotonic() < until:
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.05)
    time.sleep(1)  # for one more, were there room for it
    most = max(most, len(list(folder.iterdir())))
    mark.unlink()
    return most
