"""Command line: `main` parses the arguments of every verb and runs it."""

from mrkd.cli.main import main

__all__ = ["main"]
