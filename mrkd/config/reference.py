"""Help of the flags, the reference in Markdown and JSON schemas, made from the configs' fields.

A key's help is the docstring below its field, read from the module's source; type, choices and
range are the field's own, and so is the default, but where the preset `default` sets another.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from mrkd.config.model import ModelConfig
from mrkd.config.toml import (
    Config,
    Location,
    Range,
    flattened,
    hints_of,
    is_required,
    mark_of,
    toml_value,
)
from mrkd.config.train import PER_CATEGORY, TrainConfig, preset_values

RELATIVE = "Relative paths are relative to the current directory, not to the config file."

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Args:
        name: its dotted name, such as `train.mask_rate`.
        hint: its type, with its `Range` or `Location`.
        default: the value where a file does not set it; `dataclasses.MISSING` if it must.
        help: its meaning, on one line.
    """

    name: str
    hint: Any
    default: Any
    help: str

    @property
    def table(self) -> str:
        """Name of its table; empty: the top level of the file."""
        return self.name.rpartition(".")[0]

    @property
    def type(self) -> Any:
        """Its type, without `Range` and `Location`."""
        return typing.get_args(self.hint)[0] if _is_marked(self.hint) else self.hint

    @property
    def location(self) -> Location | None:
        """The mark of a key that holds a path or URI."""
        return mark_of(self.hint, Location)

    @property
    def is_required(self) -> bool:
        """Whether a file must set it."""
        return self.default is dataclasses.MISSING

    @property
    def range(self) -> str:
        """The numbers allowed and their unit, such as `32 to 4096 pixels`; empty: any value."""
        limits = mark_of(self.hint, Range)
        return f"{limits.low:.7g} to {limits.high:.7g} {limits.unit}".rstrip() if limits else ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words allowed for the value or for each item of a list; empty: any value."""
        hint = typing.get_args(self.type)[0] if _is_list(self.type) else self.type
        return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()

    @property
    def described(self) -> str:
        """Its meaning, range and default, for `--help`."""
        default = "required" if self.is_required else f"default {toml_value(self.default)}"
        return f"{self.help} [{'; '.join(filter(None, [self.range, default]))}]"


def keys(config: type[Config]) -> Iterator[Key]:
    """Every key of a config, in the order of its fields; not those of tables that users name."""
    preset = flattened(preset_values(ModelConfig.preset)) if issubclass(config, TrainConfig) else {}
    yield from _keys(config, "", preset)


def _keys(config: type[Config], path: str, preset: Mapping[str, Any]) -> Iterator[Key]:
    hints, helps = hints_of(config), _helps(config)
    for field in dataclasses.fields(config):
        hint, name = hints[field.name], path + field.name
        if _is_table(hint):
            yield from _keys(hint, f"{name}.", preset)
        elif typing.get_origin(hint) is not Mapping:
            yield Key(name, hint, preset.get(name, field.default), helps[field.name])


def title(config: type[Config]) -> str:
    """The first sentence of a config's docstring."""
    return inspect.cleandoc(config.__doc__ or "").partition("\n")[0]


def tables(config: type[Config]) -> dict[str, type[Config]]:
    """The tables of a config by name, in the order of its fields."""
    return {name: hint for name, hint in hints_of(config).items() if _is_table(hint)}


def markdown(configs: Mapping[str, type[Config]]) -> str:
    """The reference of several configs: each file's top level, and then each table once.

    Args:
        configs: each command's config, by the command's name.
    """
    lines = [
        "# Keys of the config files",
        "",
        "Printed by `mrkd config reference`. A key is also a flag: `mask_rate` of `[train]` is "
        f"`--train.mask-rate`. {RELATIVE} Defaults of `[model]` and `[train]` are those of the "
        "preset `default`; `model.preset` chooses another.",
    ]
    users: dict[tuple[str, type[Config]], list[str]] = {}
    for command, config in configs.items():
        for name, table in tables(config).items():
            users.setdefault((name, table), []).append(command)
        links = ", ".join(f"[`[{name}]`](#{name})" for name in tables(config))
        lines += ["", f"## mrkd {command}", "", title(config), *_rows(config, "")]
        lines += ["", f"Tables: {links}."]
        if issubclass(config, TrainConfig):
            lines += ["", _helps(config)["category"]]
    for (name, table), commands in users.items():
        used = ", ".join(f"`mrkd {command}`" for command in commands)
        lines += ["", f"## [{name}]", "", f"{title(table)} Used by {used}."]
        lines += _rows(configs[commands[0]], name)
    return "\n".join(lines) + "\n"


def _rows(config: type[Config], table: str) -> list[str]:
    rows = ["", "| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key in keys(config):
        if key.table == table:
            allowed = ", ".join(f"`{one}`" for one in key.choices) or key.range
            default = "required" if key.is_required else f"`{toml_value(key.default)}`"
            name = key.name.rpartition(".")[2]
            cells = (f"`{name}`", _type_name(key), default, allowed, key.help)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _type_name(key: Key) -> str:
    if key.location:
        return "path or URI"
    hint, lists = key.type, ""
    while _is_list(hint):
        hint, lists = typing.get_args(hint)[0], lists + ("lists of " if lists else "list of ")
    name = _TYPES.get(hint, "string")
    return f"{lists}{name}s" if lists else name


def schema(config: type[Config]) -> dict[str, Any]:
    """The JSON schema of a config's file, for editors."""
    known = {key.name: key for key in keys(config)}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return draft | _table_schema(config, "", known)


def _table_schema(config: type[Config], path: str, known: Mapping[str, Key]) -> dict[str, Any]:
    properties = dict[str, Any]()
    for name, hint in hints_of(config).items():
        if _is_table(hint):
            properties[name] = _table_schema(hint, f"{path}{name}.", known)
        elif key := known.get(path + name):
            properties[name] = _value_schema(hint) | {"description": key.help}
            properties[name] |= {} if key.is_required else {"default": key.default}
        else:
            own = {one: properties[one] for one in PER_CATEGORY}
            properties[name] = {
                "description": _helps(config)[name],
                "type": "object",
                "additionalProperties": _object(own),
            }
    needed = [field.name for field in dataclasses.fields(config) if is_required(field)]
    return {"description": title(config), **_object(properties), "required": needed}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value_schema(hint: Any) -> dict[str, Any]:
    arguments = typing.get_args(hint)
    if _is_marked(hint):
        limits = mark_of(hint, Range)
        bounds = {"minimum": limits.low, "maximum": limits.high} if limits else {}
        return _value_schema(arguments[0]) | bounds
    if typing.get_origin(hint) is Literal:
        return {"enum": list(arguments)}
    if _is_list(hint):
        return {"type": "array", "items": _value_schema(arguments[0])}
    return {"type": _TYPES[hint]}


def _is_table(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Config)


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _is_marked(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated


def _helps(config: type[Config]) -> dict[str, str]:
    """The docstring of each field, inherited ones first."""
    found: dict[str, str] = {}
    for one in reversed(config.__mro__):
        found |= _docstrings(one.__module__).get(one.__name__, {}) if _is_table(one) else {}
    return found


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """The docstrings below the fields of a module's classes, by class and field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        one.name: {
            field.target.id: " ".join(str(below.value.value).split())
            for field, below in pairwise(one.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        }
        for one in tree.body
        if isinstance(one, ast.ClassDef)
    }
