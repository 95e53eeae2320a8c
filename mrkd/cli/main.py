"""`mrkd <verb>`: a TOML file and flags become a config, the config a run, the run an exit code.

Every key of a verb's config is a flag too: `--train.mask-rate 0.3`. Flags go into the file's tables
before anything is checked, so that both pass the same checks and a preset stays below both.
The last line on stdout is the run's summary as JSON, also where Ctrl-C or a bug ends the run; logs
go to stderr, set up here alone. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn

from mrkd import __version__
from mrkd.cli import model_commands, night_commands, review_commands, run_commands
from mrkd.cli.command import Command
from mrkd.cli.run_commands import VERBS, RunConfig, Verb
from mrkd.config import ExecutorName, TrainConfig, night_dates
from mrkd.config.reference import RELATIVE, keys, tables, title
from mrkd.config.text import decoded
from mrkd.config.toml import flattened, nearest, parsed, put_values
from mrkd.errors import ConfigError, MrkdError, StorageError
from mrkd.run_summary import Summary, now

_MODULES = (model_commands, night_commands, review_commands, run_commands)
COMMANDS: dict[str, Command] = {
    name: one for module in _MODULES for name, one in module.COMMANDS.items()
}
GROUPS = {name: text for module in _MODULES for name, text in module.GROUPS.items()}


def main(argv: Sequence[str] | None = None, *, executor: ExecutorName = "auto") -> int:
    """Runs a command line, `sys.argv` by default, and returns its exit code (see `Summary`).

    Args:
        argv: the words after the command's name.
        executor: executor of a run whose config leaves it to `auto`.
    """
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("mrkd").setLevel(logging.INFO)
    with _Started() as started:
        try:
            summary = _run(sys.argv[1:] if argv is None else argv, started, executor)
        except MrkdError as error:
            state = "refused" if error.exit_code == ConfigError.exit_code else "failed"
            summary = started.ended(error.exit_code, state, str(error))
        except KeyboardInterrupt:
            summary = started.ended(1, "failed", "stopped by Ctrl-C: start it again to go on")
    if summary is None:
        return 0
    print(summary.to_json(), flush=True)
    return summary.exit_code


@dataclass
class _Started:
    """A command under way; a bug that ends it still prints a summary before its traceback."""

    command: str = ""
    run: str | None = None
    started_at: str = field(default_factory=now)

    def __enter__(self) -> _Started:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            reason = f"a bug in mrkd, its traceback is on stderr: {type(error).__name__}: {error}"
            with suppress(BrokenPipeError):  # stdout may be the pipe that was closed
                print(self.ended(1, "failed", reason).to_json(), flush=True)

    def ended(self, exit_code: int, state: str, reason: str) -> Summary:
        """The summary of what ends with a reason, which is on stderr too."""
        reason = " ".join(reason.split())
        print(f"mrkd: {reason}", file=sys.stderr)
        return Summary(
            command=self.command,
            run=self.run,
            exit_code=exit_code,
            state=state,
            started_at=self.started_at,
            finished_at=now(),
            reasons=[reason],
        )


def _run(argv: Sequence[str], started: _Started, executor: ExecutorName) -> Summary | None:
    """Runs a command line; None: its output ends without a summary, as that of a help."""
    _check_names(argv)
    options, unknown = _parser().parse_known_args(argv)
    started.command, options.started_at = options.command, started.started_at
    if unknown:
        raise ConfigError(_unknown_flag(unknown, options.command))
    if command := COMMANDS.get(options.command):
        return command.work(options)
    if options.command not in VERBS:
        options.print_help()
        return None
    verb = VERBS[options.command]
    if verb.list_spaces and options.spaces:
        return verb.list_spaces(options)
    config, *late = _configs(verb, options)
    started.run = config.run
    if options.show_config:
        print(config.to_toml(), end="")
        return None
    if verb.plan and options.plan:
        return verb.plan(config)
    if verb.days and late:
        return verb.days(config, late, executor)
    return verb.work(config, executor)


def _check_names(argv: Sequence[str]) -> None:
    """Refuses a command, or a command of a group, that does not exist, with the nearest name."""
    known = {name.partition(" ")[0] for name in (*VERBS, *COMMANDS)}
    given = ""
    for word in argv[:2]:
        if word.startswith("-") or not known:
            return
        if word not in known:
            raise ConfigError(
                f"unknown command {f'{given} {word}'.strip()!r}{nearest(word, sorted(known))} (see "
                f"`{f'mrkd {given}'.strip()} --help`)"
            )
        given, known = word, {name.split()[1] for name in COMMANDS if name.startswith(f"{word} ")}


_LOCATIONS = f"Files and folders are given as path, file:///path or s3://bucket/key. {RELATIVE}"


class _Parser(argparse.ArgumentParser):
    """Refuses by a `ConfigError`, so that bad usage and a bad config look the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "mrkd",
        description="Finds defects in product images by masked reverse knowledge distillation.",
        epilog=_LOCATIONS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mrkd {__version__}")
    parser.set_defaults(command="", print_help=parser.print_help)
    verbs = parser.add_subparsers(metavar="COMMAND")
    for name, verb in VERBS.items():
        usage = f"mrkd {name} FILE.toml [--table.key VALUE ...] [OPTION ...]"
        _add_config_flags(_add(verbs, name, verb.help, usage), verb)
    groups = {"": verbs}
    for name, text in GROUPS.items():
        group = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        group.set_defaults(command=name, print_help=group.print_help)
        groups[name] = group.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = _add(groups[name.rpartition(" ")[0]], name, command.help)
        choice = one.add_mutually_exclusive_group(required=True) if command.one_of else one
        for argument, keywords in command.arguments.items():
            (choice if argument in command.one_of else one).add_argument(argument, **keywords)
    return parser


def _add(
    verbs: argparse._SubParsersAction[_Parser], name: str, text: str, usage: str | None = None
) -> _Parser:
    leaf = name.rpartition(" ")[2]
    one = verbs.add_parser(
        leaf, help=text, description=text, usage=usage, epilog=_LOCATIONS, allow_abbrev=False
    )
    one.set_defaults(command=name)
    return one


def _add_config_flags(one: argparse.ArgumentParser, verb: Verb) -> None:
    if verb.list_spaces:
        text = "list the search spaces with their keys, and stop"
        one.add_argument("--spaces", action="store_true", help=text)
    optional: dict[str, Any] = {"nargs": "?"} if verb.list_spaces else {}
    one.add_argument("file", metavar="FILE.toml", help="path or URI of the config file", **optional)
    text = "print the whole config that results, and stop"
    one.add_argument("--show-config", action="store_true", help=text)
    if verb.plan:
        text = "print the images, bytes, time and money that the run would take, and stop"
        one.add_argument("--plan", action="store_true", help=text)
    if verb.days:
        text = "day of the night, which replaces {date} in its run and URIs"
        one.add_argument("--date", metavar="2026-11-23", help=text)
        text = "also score images that arrived late for the last days before --date, such as 3d"
        one.add_argument("--late-window", metavar="DAYS", help=text)
    if issubclass(verb.config, TrainConfig):
        one.add_argument(
            "--force",
            dest="fleet.force",
            action="store_const",
            const="true",
            default=argparse.SUPPRESS,
            help="short for --fleet.force true",
        )
    known = tables(verb.config)
    found = sorted(keys(verb.config), key=lambda key: key.table != "")  # the top level first
    for table, some in groupby(found, key=lambda key: key.table):
        text = title(known[table]) if table else "Keys above all tables of the file."
        group = one.add_argument_group(f"[{table}]" if table else "keys of the top level", text)
        for key in some:
            switch: dict[str, Any] = {"nargs": "?", "const": "true"} if key.type is bool else {}
            # Underscores are accepted too, and not shown.
            helps = {f"--{key.name}": argparse.SUPPRESS}
            helps[f"--{key.name.replace('_', '-')}"] = key.described.replace("%", "%%")
            for flag, text in helps.items():
                group.add_argument(
                    flag,
                    dest=key.name,
                    default=argparse.SUPPRESS,
                    metavar="URI" if key.location else _metavar(key.type),
                    help=text,
                    **switch,
                )


def _metavar(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "|".join(arguments)
    return f"{_metavar(arguments[0])},..." if arguments else str(hint.__name__)


def _unknown_flag(unknown: Sequence[str], command: str) -> str:
    flag = next((text for text in unknown if text.startswith("--")), unknown[0]).partition("=")[0]
    known = list(COMMANDS[command].arguments) if command in COMMANDS else []
    if command in VERBS:
        known = [f"--{key.name.replace('_', '-')}" for key in keys(VERBS[command].config)]
    near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1)
    return f"unknown argument {flag!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _configs(verb: Verb, options: argparse.Namespace) -> list[RunConfig]:
    """The config of a run, and with `--late-window` those of the days before."""
    if options.file is None:
        raise ConfigError(f"name the TOML file of its config (see `mrkd {options.command} --help`)")
    raw = parsed(_text(options.file), f"{options.file}: not a TOML file")
    given, kind = vars(options), verb.config
    set_ = {key.name: _value(given[key.name], key.type) for key in keys(kind) if key.name in given}
    put_values(raw, set_)
    if verb.days is None:
        return [_with_absolute_paths(kind.from_dict(raw))]
    day = None if options.date is None else night_dates.day_of(options.date)
    window = options.late_window
    days = [day, *(night_dates.days_before(raw, day, window) if window is not None else ())]
    return [_with_absolute_paths(kind.from_dict(night_dates.fill(raw, one))) for one in days]


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config for Ray's workers, whose working directory is another one."""
    raw = config.to_dict()
    locations = {key.name: key.location for key in keys(type(config)) if key.location}
    for table in (raw, *raw.get("category", {}).values()):
        for name, uri in flattened(table).items():
            location = locations.get(name)
            if not location or not uri or "://" in uri:
                continue
            if not (location.or_name and uri.isidentifier()):
                put_values(table, {name: str(Path(uri).absolute())})
    return type(config).from_dict(raw)


def _text(uri: str) -> str:
    try:
        if "://" not in uri:
            return decoded(Path(uri).read_bytes(), uri)
        from mrkd import storage

        return decoded(storage.read(uri), uri)
    except (OSError, StorageError) as error:
        raise ConfigError(f"cannot read the config {uri!r}: {error}") from error


def _value(text: str, hint: Any) -> object:
    """The value of a flag's text by the key's type; the text itself if it does not fit."""
    if hint is str or typing.get_origin(hint) is Literal:
        return text
    try:
        value = parsed(f"value = {text}")["value"]
    except ConfigError:
        value = text
    if typing.get_origin(hint) is tuple and not isinstance(value, list):
        item = typing.get_args(hint)[0]
        return [_value(part.strip(), item) for part in text.split(",") if part.strip()]
    return value
