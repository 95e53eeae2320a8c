"""Templates, which read category and attributes out of an image's key."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import lru_cache

from mrkd.config import NAME
from mrkd.errors import ConfigError

UNMATCHED = "unmatched"
"""Category of the images whose key gives none. It is reserved and never has a model, so that such
an image becomes an error row, as any other that cannot be scored, and is not lost."""


class Template:
    """How the key of an image, below the archive's URI, is read.

    `{category}/{line}/{date}/{name}` names the parts of the key. A field matches one or more
    characters other than a slash, as few as the text after it allows; `{name}` alone may hold
    slashes, so that it takes in deeper folders.

    Args:
        template: text with `{name}` and any other fields, each once; without `{category}` a
            manifest or a tar's JSON must give it.
        key: key of the config that holds the template, for errors.

    Raises:
        ConfigError: braces that do not close, or a field that is not a plain name or occurs twice.
    """

    def __init__(self, template: str, key: str = "archive.template") -> None:
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"{key} is {template!r}: {error}") from error
        pattern, fields = "", set[str]()
        for literal, field, format_spec, conversion in parts:
            pattern += re.escape(literal)
            if field is None:
                continue
            if not field.isidentifier() or field in fields or format_spec or conversion:
                raise ConfigError(
                    f"{key} is {template!r}: field {field!r} must be a plain name, "
                    "once; write {{ and }} for braces"
                )
            fields.add(field)
            pattern += f"(?P<{field}>{'.+' if field == 'name' else '[^/]+?'})"
        self._pattern = re.compile(pattern, re.DOTALL)
        # Where all before the name are folders, they alone decide: most images share theirs.
        self._depth = template.count("/") if template.endswith("/{name}") else 0
        self._of_folder = lru_cache(maxsize=4096)(self._read)

    def fields(self, key: str) -> dict[str, str]:
        """The fields of a key but for the name; none where it does not match."""
        match = self._pattern.fullmatch(key)
        fields = match.groupdict() if match else {}
        fields.pop("name", None)
        return fields

    def parse(self, key: str) -> tuple[str, dict[str, str]]:
        """The category of a key, and its attributes; see `to_category`."""
        category, attributes = self.read(key)
        return category, dict(attributes)

    def read(self, key: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """As `parse`, with the attributes in pairs, which keys of one folder share."""
        *folders, name = key.split("/", self._depth)
        if not self._depth or not name or len(folders) < self._depth:
            return self._read(key)
        return self._of_folder(f"{key[: -len(name)]}-")

    def _read(self, key: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        category, attributes = to_category(self.fields(key))
        return category, tuple(attributes.items())


def to_category(fields: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The category among the fields, and the others, which are the image's attributes.

    Fields without a category, or whose category is not a name (`config.check_name`) or is
    `UNMATCHED` itself, give `UNMATCHED` and no attributes.
    """
    category = fields.get("category", UNMATCHED)
    if category == UNMATCHED or not NAME.fullmatch(category):
        return UNMATCHED, {}
    return category, {name: value for name, value in fields.items() if name != "category"}
