"""Lists the images of a night: those below a prefix or in a manifest, and the members of tars.

A table (`IMAGES`) holds each image's category, which version of it is meant and, where it is known
already, why it cannot be read. Images are found here and read elsewhere, but for the members of
tars (`read_members`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from mrkd import storage
from mrkd.config import ArchiveConfig
from mrkd.errors import ConfigError
from mrkd.nights.archive.image_table import IMAGES, merge_equal, refuse_shared, sort_images
from mrkd.nights.archive.key_template import UNMATCHED, Template
from mrkd.nights.archive.listing import list_entries, read_entries
from mrkd.nights.archive.manifest_reader import manifest_entries
from mrkd.nights.archive.tar_read import MemberSpan, known_tars, read_members, spans, split_member
from mrkd.storage import schema

__all__ = [
    "IMAGES",
    "UNMATCHED",
    "MemberSpan",
    "Template",
    "known_tars",
    "list_images",
    "passed_over",
    "read_members",
    "spans",
    "split_member",
    "write_manifest",
]


PASSED_OVER = b"passed_over"


def list_images(config: ArchiveConfig, known: Mapping[str, str] = {}) -> pa.Table:
    """The images that the archive holds now, one row each (`IMAGES`), by category, then URI.

    A tar that is damaged has a row of its own beside those of the members before the damage. The
    members of a tar in `known`, ETags by URI (`known_tars`), are left out while it has that ETag.
    The table's metadata has the files and members of tars that are neither, by suffix, and the
    folders that cannot be looked into (`passed_over`).

    Raises:
        ConfigError: the template is wrong; a manifest is not there, is none, or holds two
            different rows of one URI.
        StorageError: the archive cannot be listed.
    """
    passed: Counter[str] = Counter()
    entries = manifest_entries(config) if config.manifest else list_entries(config, passed)
    batches, num_tars = read_entries(entries, config, known, passed)
    facts = {PASSED_OVER: json.dumps(dict(passed.most_common()))}
    table = sort_images(batches).replace_schema_metadata(facts)
    if config.manifest:
        return merge_equal(table, name=config.manifest)
    # Keys of objects differ; but one may be named as the member of a tar is.
    return refuse_shared(table) if num_tars else table


def passed_over(images: pa.Table) -> dict[str, int]:
    """Numbers of the files, by suffix, and of the folders that a listing passed over."""
    found: dict[str, int] = json.loads((images.schema.metadata or {}).get(PASSED_OVER, b"{}"))
    return found


def write_manifest(uri: str, out: str, template: str = "") -> dict[str, int]:
    """Lists an archive once, for nights that name the file as `archive.manifest`.

    Args:
        uri: URI of the archive.
        out: the file, `.parquet`; it holds `IMAGES`, offsets of tar members too.
        template: template of the keys; without one the file has no categories, and the night's own
            template reads them. Fields of JSONs in tars are in it only with a template.

    Returns:
        How many `images` there are, `members` of tars among them, `errors` among them, `bytes`.

    Raises:
        ConfigError: the template is wrong, `out` has another suffix, or JSONs in tars give
            categories and the template is missing.
        StorageError: the archive cannot be listed, or the file not written.
    """
    if not out.lower().endswith(".parquet"):
        raise ConfigError(f"{out!r} is not the name of a manifest: let it end in .parquet")
    images = list_images(ArchiveConfig(uri=uri, template=template or "{name}"))
    if not template:
        if pc.any(pc.not_equal(images["category"], UNMATCHED)).as_py():
            raise ConfigError(
                f"{uri} has tars with JSONs that give categories: write its manifest with the "
                "night's template (--template), which says what goes before what"
            )
        fields = [field.with_nullable(True) for field in IMAGES]
        none = pa.nulls(images.num_rows, pa.string())
        images = images.cast(pa.schema(fields)).set_column(1, fields[1], none)
        images = images.sort_by("image_uri")
    storage.write(out, schema.to_parquet(images))
    return {
        "images": images.num_rows,
        "members": pc.count(images["offset"]).as_py(),
        "errors": pc.count(images["error_kind"]).as_py(),
        "bytes": pc.sum(images["image_bytes"]).as_py() or 0,
    }
