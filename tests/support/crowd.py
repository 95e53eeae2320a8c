"""Calls that wait for each other: how many of them a cluster runs at once."""

import time


def meet(folder, crowd):
    """The most calls that were under way at once, after waiting until there are so many."""
    mark, met = folder / str(time.monotonic_ns()), folder.parent / f"{folder.name}.met"
    mark.touch()
    until, most = time.monotonic() + 60, 0
    # A call that is left over when the crowd has met would wait for nobody.
    while most < crowd and not met.exists() and time.monotonic() < until:
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.05)
    if most >= crowd:
        met.touch()
    time.sleep(1)  # for one more, were there room for it
    most = max(most, len(list(folder.iterdir())))
    mark.unlink()
    return most
