"""What a cluster runs for `mrkd tune`: `python -m jobs.tune SEARCH.toml [FLAG ...]`."""

import sys

from mrkd import cli

if __name__ == "__main__":
    sys.exit(cli.main(["tune", *sys.argv[1:]]))
