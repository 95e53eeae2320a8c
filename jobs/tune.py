"""Job that runs `mrkd tune` on a cluster: `python -m jobs.tune SEARCH.toml [FLAG ...]`."""

import sys

from mrkd import cli

if __name__ == "__main__":
    sys.exit(cli.main(["tune", *sys.argv[1:]], executor="ray"))
