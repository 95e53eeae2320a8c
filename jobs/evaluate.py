"""Job that runs `mrkd evaluate` on a cluster: `python -m jobs.evaluate EVAL.toml [FLAG ...]`."""

import sys

from mrkd import cli

if __name__ == "__main__":
    sys.exit(cli.main(["evaluate", *sys.argv[1:]], executor="ray"))
