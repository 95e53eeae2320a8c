"""Job that runs `mrkd train` on a cluster: `python -m jobs.train FLEET.toml [FLAG ...]`."""

import sys

from mrkd import cli

if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]], executor="ray"))
