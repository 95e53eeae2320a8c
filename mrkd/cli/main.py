"""`mrkd <verb>`: a TOML file and flags become a config, the config a run, the run an exit code.

Every key of a verb's config is a flag too: `--train.mask-rate 0.3`. Flags go into the file's tables
before anything is checked, so that both pass the same checks and a preset stays below both.
The last line on stdout is the run's summary as JSON; logs go to stderr, set up here alone.
Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import sys
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from mrkd import __version__
from mrkd.cli import model_commands, night_commands, review_commands
from mrkd.cli.run_commands import VERBS, RunConfig, Verb
from mrkd.config import TrainConfig, night_dates
from mrkd.config.toml import Config, flattened, put_values
from mrkd.errors import ConfigError, MrkdError, StorageError
from mrkd.run_summary import Summary, now

COMMANDS = {**model_commands.COMMANDS, **night_commands.COMMANDS, **review_commands.COMMANDS}
GROUPS = {**model_commands.GROUPS, **night_commands.GROUPS, **review_commands.GROUPS}

PLACES = (
    "workspace",
    "data.root",
    "data.split_csv",
    "archive.uri",
    "archive.manifest",
    "golden.uri",
    "models",
    "model.weights",
    "roi.mask",
)
"""Keys whose values are paths or URIs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, `sys.argv` by default, and returns its exit code (see `Summary`)."""
    _log_to_stderr()
    started_at, command, run = now(), "", None
    try:
        options, unknown = _parser().parse_known_args(argv)
        command = options.command
        if unknown:
            raise ConfigError(_unknown_flag(unknown, command))
        if command in COMMANDS:
            summary = COMMANDS[command].work(options)
        else:
            verb = VERBS[command]
            if verb.listing and getattr(options, verb.listing.name):
                summary = verb.listing.work()
            else:
                config, *late = _configs(verb, options)
                run = config.run
                if options.show_config:
                    print(config.to_toml(), end="")
                    return 0
                summary = verb.plan(config) if verb.plan and options.plan else verb.work(config)
                if verb.late and late and not options.plan:
                    summary = verb.late(summary, late)
    except MrkdError as error:
        reason = " ".join(str(error).split())
        print(f"mrkd: {reason}", file=sys.stderr)
        state = "refused" if error.exit_code == ConfigError.exit_code else "failed"
        summary = Summary(
            command=command,
            run=run,
            exit_code=error.exit_code,
            state=state,
            started_at=started_at,
            finished_at=now(),
            reasons=[reason],
        )
    print(summary.to_json(), flush=True)
    return summary.exit_code


def _log_to_stderr() -> None:
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("mrkd").setLevel(logging.INFO)


class _Parser(argparse.ArgumentParser):
    """Refuses by a `ConfigError`, so that bad usage and a bad config look the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("mrkd", description="Defects in product images.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mrkd {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in VERBS.items():
        usage = f"mrkd {name} FILE.toml [--section.key VALUE ...] [OPTION ...]"
        _add_config_flags(_add(verbs, name, verb.help, usage), verb)
    groups = {"": verbs}
    for name, text in GROUPS.items():
        group = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        groups[name] = group.add_subparsers(required=True, metavar="COMMAND")
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
    one = verbs.add_parser(leaf, help=text, description=text, usage=usage, allow_abbrev=False)
    one.set_defaults(command=name)
    return one


def _add_config_flags(one: argparse.ArgumentParser, verb: Verb) -> None:
    if verb.listing:
        flag, text = f"--{verb.listing.name}", verb.listing.help
        one.add_argument(flag, action="store_true", help=text)
    optional: dict[str, Any] = {"nargs": "?"} if verb.listing else {}
    one.add_argument("file", metavar="FILE.toml", help="path or URI of the config", **optional)
    one.add_argument("--show-config", action="store_true", help="print the whole config and stop")
    if verb.plan:
        one.add_argument("--plan", action="store_true", help="count images and bytes and stop")
    if verb.late:
        text = "of the night, put into {date} in its run and places"
        one.add_argument("--date", metavar="2026-11-23", help=text)
        text = "days before it whose late images are scored as well, as in 3d"
        one.add_argument("--late-window", metavar="DAYS", help=text)
    absent = argparse.SUPPRESS
    if issubclass(verb.config, TrainConfig):
        one.add_argument(
            "--force",
            dest="fleet.force",
            action="store_const",
            const="true",
            default=absent,
            help="the same as --fleet.force true",
        )
    group = one.add_argument_group("keys of the config")
    for key, hint in keys(verb.config):
        spellings = dict.fromkeys([f"--{key.replace('_', '-')}", f"--{key}"])
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if hint is bool else {}
        group.add_argument(*spellings, dest=key, default=absent, metavar=_metavar(hint), **switch)


def keys(config: type[Config], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every value of a config, in the order of its fields."""
    hints = typing.get_type_hints(config)
    for name in (field.name for field in dataclasses.fields(config)):
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, Config):
            yield from keys(hint, f"{path}{name}.")
        elif typing.get_origin(hint) is not Mapping:  # tables of the user's own names
            yield path + name, hint


def _metavar(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "|".join(arguments)
    return f"{_metavar(arguments[0])},..." if arguments else str(hint.__name__)


def _unknown_flag(unknown: Sequence[str], command: str) -> str:
    flag = next((text for text in unknown if text.startswith("--")), unknown[0]).partition("=")[0]
    if command in COMMANDS:
        known = list(COMMANDS[command].arguments)
    else:
        known = [f"--{key.replace('_', '-')}" for key, _ in keys(VERBS[command].config)]
    near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1)
    return f"unknown argument {flag!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _configs(verb: Verb, options: argparse.Namespace) -> list[RunConfig]:
    """The config of a run, and, where a window is looked through, those of the days before."""
    if options.file is None:
        raise ConfigError(f"name the TOML file of its config (see `mrkd {options.command} --help`)")
    text = _text(options.file)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{options.file}: not a TOML file: {error}") from error
    given, kind = vars(options), verb.config
    put_values(raw, {key: _value(given[key], hint) for key, hint in keys(kind) if key in given})
    if verb.late is None:
        return [_with_absolute_paths(kind.from_dict(raw))]
    day = None if options.date is None else night_dates.day_of(options.date)
    window = options.late_window
    days = [day, *(night_dates.days_before(raw, day, window) if window is not None else ())]
    return [_with_absolute_paths(kind.from_dict(night_dates.fill(raw, one))) for one in days]


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config for Ray's workers, whose working directory is another one."""
    raw = config.to_dict()
    for table in (raw, *raw.get("category", {}).values()):
        places = {key: value for key, value in flattened(table).items() if key in PLACES}
        put_values(table, {key: _absolute(key, value) for key, value in places.items()})
    return type(config).from_dict(raw)


def _absolute(key: str, place: str) -> str:
    # `auto`, `random` and the table's names of weights are no paths; a file of such a name is
    # written ./name.
    is_name = key == "model.weights" and place.isidentifier()
    return place if not place or "://" in place or is_name else str(Path(place).absolute())


def _text(uri: str) -> str:
    try:
        if "://" not in uri:
            return Path(uri).read_text(encoding="utf-8")
        from mrkd import storage

        return storage.read(uri).decode()
    except (OSError, StorageError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {uri!r}: {error}") from error


def _value(text: str, hint: Any) -> object:
    """A flag's text as the key's type has it; left as text where it fits none, to be refused."""
    if hint is str or typing.get_origin(hint) is Literal:
        return text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if typing.get_origin(hint) is tuple and not isinstance(value, list):
        item = typing.get_args(hint)[0]
        return [_value(part.strip(), item) for part in text.split(",") if part.strip()]
    return value
