"""What an archive holds: its images, and what the template reads out of their keys."""

from __future__ import annotations

import re
import string

import pyarrow as pa

from mrkd import schema, storage
from mrkd.config import NAME, ArchiveConfig
from mrkd.errors import ConfigError

UNMATCHED = "unmatched"
"""Category of the images whose key gives none. It is reserved and never has a model, so that such
an image becomes an error row, as any other that cannot be scored, and is not lost."""

IMAGES = pa.schema(
    [
        schema.PLAN.field(name)
        for name in ("image_uri", "category", "image_etag", "image_bytes", "attributes")
    ]
)
"""The columns of a plan that the archive alone decides."""


class Template:
    """How the key of an image, below the archive's URI, is read.

    `{category}/{line}/{date}/{name}` names the parts of the key. A field stands for one or more
    characters other than a slash, as few as the text after it allows; `{name}` alone may hold
    slashes, so that deeper folders are part of it.

    Args:
        template: text with `{category}`, `{name}` and any other fields, each once.

    Raises:
        ConfigError: braces that do not close, or a field that is no plain name or stands twice.
    """

    def __init__(self, template: str) -> None:
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"archive.template is {template!r}: {error}") from error
        pattern, fields = "", set[str]()
        for literal, field, format_spec, conversion in parts:
            pattern += re.escape(literal)
            if field is None:
                continue
            if not field.isidentifier() or field in fields or format_spec or conversion:
                raise ConfigError(
                    f"archive.template is {template!r}: field {field!r} must be a plain name, "
                    "once; write {{ and }} for braces"
                )
            fields.add(field)
            pattern += f"(?P<{field}>{'.+' if field == 'name' else '[^/]+?'})"
        self._pattern = re.compile(pattern, re.DOTALL)

    def parse(self, key: str) -> tuple[str, dict[str, str]]:
        """The category of a key, and its attributes: the fields other than category and name.

        A key that does not match, or whose category is no name (`config.check_name`) or is
        `UNMATCHED` itself, gives `UNMATCHED` and no attributes.
        """
        match = self._pattern.fullmatch(key)
        fields = match.groupdict() if match else {}
        category = fields.pop("category", UNMATCHED)
        if category == UNMATCHED or not NAME.fullmatch(category):
            return UNMATCHED, {}
        del fields["name"]
        return category, fields


def list_images(config: ArchiveConfig) -> pa.Table:
    """The images that the archive holds now, one row each (`IMAGES`), by category, then URI.

    Raises:
        ConfigError: the template is wrong.
        StorageError: the archive cannot be listed.
    """
    template = Template(config.template)
    root = storage.join(config.uri) + "/"
    files = storage.list_files(config.uri, suffixes=config.suffixes)
    parsed = [template.parse(file.uri.removeprefix(root)) for file in files]
    columns = {
        "image_uri": [file.uri for file in files],
        "category": [category for category, _ in parsed],
        "image_etag": [file.etag for file in files],
        "image_bytes": [file.num_bytes for file in files],
        "attributes": [list(attributes.items()) for _, attributes in parsed],
    }
    order = [("category", "ascending"), ("image_uri", "ascending")]
    return pa.table(columns, schema=IMAGES).sort_by(order)
