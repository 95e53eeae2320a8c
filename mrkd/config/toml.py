"""Tables of TOML to frozen dataclasses and back: one check of keys, types and ranges for all.

A dataclass below `Config` is a table, each of its fields a key, the field's type what is allowed:
bool, int, float, str, Literal, a tuple of one of these, another `Config`, or a mapping of tables
whose keys are the user's. A number's type carries its `Range`, the docstring below a field is its
help; `mrkd.config.reference` makes the flags' help, the reference and the JSON schemas of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from mrkd.errors import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_MOST_KNOWN = 30


@dataclass(frozen=True)
class Range:
    """The numbers that a key allows.

    Args:
        low: the least one, inclusive.
        high: the greatest one, inclusive.
        unit: their unit.
    """

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class Location:
    """Marks the type of a key that holds a path or URI; `mrkd.cli` makes its paths absolute.

    Args:
        or_name: whether a word without a dot or slash is a name instead; a file of such a name is
            written ./name.
    """

    or_name: bool = False


Uri = Annotated[str, Location()]
UriOrName = Annotated[str, Location(or_name=True)]


@dataclass(frozen=True)
class Config:
    """Base of all configs; it has no field of its own."""

    table = ""
    """Name of its table in the file, for messages; empty: the top level."""

    def __init_subclass__(cls, table: str = "") -> None:
        cls.table = table

    def __post_init__(self) -> None:
        """Refuses values outside their key's range, and what `_check` refuses."""
        for name, hint in hints_of(type(self)).items():
            if limits := mark_of(hint, Range):
                check_range(_join(self.table, name), getattr(self, name), limits.low, limits.high)
        self._check()

    def _check(self) -> None:
        """Refuses what a range cannot, such as keys that exclude each other; by default nothing."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The config that `raw`, nested like the TOML file, describes.

        Raises:
            ConfigError: an unknown key (with the nearest known one), a missing key, or a value of
                the wrong type or outside its range.
        """
        return _build(cls, raw, "")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The config of a TOML file's text; raises as `from_dict`, and where it is not TOML."""
        return cls.from_dict(parsed(text))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; `from_dict` of it is equal to this config."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def to_toml(self) -> str:
        """The whole config, defaults included, as a TOML file."""
        return "\n".join(_toml_lines(self.to_dict(), "")) + "\n"

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy with some fields changed, named by dotted paths such as `train.mask_rate`.

        Raises:
            ConfigError: as `from_dict`.
        """
        raw = self.to_dict()
        put_values(raw, values)
        return type(self).from_dict(raw)

    def digest(self) -> str:
        """Sha256 over the resolved config, the same for equal configs on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def parsed(text: str, fault: str = "not a TOML file") -> dict[str, Any]:
    """The tables of a TOML file's text.

    Args:
        text: text of the file.
        fault: beginning of the message where it is not TOML.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    # Besides its own error, a ValueError: an integer of more than 4,300 digits.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{fault}: {error}") from error


T = TypeVar("T", bound=Config)
M = TypeVar("M", Range, Location)


def hints_of(config: type[Config]) -> dict[str, Any]:
    """The type of each field, with its `Range` or `Location`."""
    return _hints(typing.cast(Hashable, config))  # mypy misses that a class has a hash


@functools.cache
def _hints(config: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def mark_of(hint: Any, kind: type[M]) -> M | None:
    """The `Range` or `Location` of a field's type, if it has one."""
    marks = getattr(hint, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def put_values(raw: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Sets keys of nested tables themselves, named by dotted paths; absent tables are added.

    Raises:
        ConfigError: a path leads through a value that is not a table.
    """
    for dotted, value in values.items():
        table = raw
        *parents, leaf = dotted.split(".")
        for name in parents:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{dotted!r}: {name!r} is a value, not a table")
        table[leaf] = value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one, with the keys of `above` where both have them."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def flattened(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted paths, as `put_values` takes them."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        below = _join(path, key)
        out |= flattened(value, below) if isinstance(value, Mapping) else {below: value}
    return out


def check_range(path: str, value: float, low: float, high: float) -> None:
    """Refuses a key's value outside `[low, high]` by a ConfigError that names the key."""
    if not low <= value <= high:
        raise ConfigError(f"{path} is {value}: it must lie between {low:g} and {high:g}")


def nearest(name: object, known: list[str]) -> str:
    """The end of a message on an unknown name: the nearest known name, or the first 30 of all."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = len(known) - _MOST_KNOWN
    return f"; known: {', '.join(known[:_MOST_KNOWN])}" + (f" and {more} more" if more > 0 else "")


def _build(cls: type[T], raw: object, path: str) -> T:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path or 'the config'} must be a table, found {type(raw).__name__}")
    hints = hints_of(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    where = f" in [{path}]" if path else ""
    for name in raw:
        if name not in known:
            raise ConfigError(f"unknown key {name!r}{where}{nearest(name, list(known))}")
    for name, spec in known.items():
        if name not in raw and is_required(spec):
            raise ConfigError(f"missing key {name!r}{where}")
    return cls(**{name: _value(hints[name], raw[name], _join(path, name)) for name in raw})


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a config has neither a default nor a factory of one."""
    return (field.default, field.default_factory) == (dataclasses.MISSING,) * 2


def _value(hint: Any, raw: object, path: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build(hint, raw, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _value(arguments[0], raw, path)
    if origin is Literal:
        if raw not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{path} is {raw!r}, allowed: {choices}")
        return raw
    if origin in (typing.Union, types.UnionType):
        return None if raw is None else _value(arguments[0], raw, path)
    if origin is Mapping:
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{path} must be a table, found {type(raw).__name__}")
        if arguments[1] is Any:
            return dict(raw)
        return {key: _value(arguments[1], item, _join(path, key)) for key, item in raw.items()}
    if origin is tuple:
        if not isinstance(raw, list | tuple):
            raise ConfigError(f"{path} must be a list, found {type(raw).__name__}")
        return tuple(_value(arguments[0], item, f"{path}[{n}]") for n, item in enumerate(raw))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        try:
            return float(raw)
        except OverflowError as error:
            raise ConfigError(f"{path} must be float, found an integer beyond it") from error
    if type(raw) is not hint or (isinstance(raw, float) and not math.isfinite(raw)):
        raise ConfigError(f"{path} must be {hint.__name__}, found {raw!r}")
    return raw


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _toml_lines(table: Mapping[str, Any], path: str) -> list[str]:
    lines = [f"{k} = {toml_value(v)}" for k, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            below = _join(path, key if _BARE.fullmatch(key) else toml_value(key))
            lines += ["", f"[{below}]", *_toml_lines(value, below)]
    return lines


def toml_value(value: object) -> str:
    """A string, number, boolean or list as TOML writes it."""
    # JSON's strings, numbers, booleans and lists are TOML's; json writes control characters as
    # \u escapes, which TOML reads too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
