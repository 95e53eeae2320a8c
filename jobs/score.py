"""Job that runs `mrkd score` on a cluster: `python -m jobs.score SCORE.toml [FLAG ...]`."""

import sys

from mrkd import cli

if __name__ == "__main__":
    sys.exit(cli.main(["score", *sys.argv[1:]], executor="ray"))
