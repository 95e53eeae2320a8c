"""Samples of the next training, with what verdicts change in them.

A confirmed defect never trains, under whatever name its bytes are in the data. A confirmed false
call may: it joins the training side alone, since held-out images are to be like the line's, and
false calls are its oddest good parts.
"""

from __future__ import annotations

from collections import defaultdict

from mrkd import storage
from mrkd.config import TrainConfig
from mrkd.data import datasets
from mrkd.data.datasets import GOOD, Listing, Sample
from mrkd.nights.reviews import store as record
from mrkd.nights.reviews.store import Review


def load_samples(config: TrainConfig) -> Listing:
    """`datasets.load` of a fleet's data, as the workspace's verdicts have it.

    Each confirmed defect is there as a training sample of label 1, which trains nothing and names
    the bytes that none may have.

    Raises:
        ConfigError: as `datasets.load`.
        ArtefactError: an import is damaged.
        StorageError: the workspace cannot be read.
    """
    own: dict[str, list[Review]] = defaultdict(list)
    for review in record.read(config.workspace):
        own[review.category].append(review)
    reviewed = [review.image_uri for some in own.values() for review in some]
    found = datasets.load(config.data, reviewed=reviewed)
    joined = {
        category: _joined(config, of_category, own[category]) if own[category] else of_category
        for category, of_category in found.items()
    }
    return found.filled(joined)


def _joined(config: TrainConfig, given: list[Sample], reviews: list[Review]) -> list[Sample]:
    defects = {one.image_uri: one for one in reviews if one.verdict == "NOK"}
    kept = [one for one in given if one.split != "train" or one.image_uri not in defects]
    kept += [
        Sample(uri, one.category, "train", 1, "reviewed", sha256=one.sha256)
        for uri, one in defects.items()
        if one.sha256
    ]
    if config.data.false_calls:
        folder = record.folder_of(config.workspace)
        copies = {one.copy: one for one in reviews if one.verdict == "OK" and one.copy}
        kept += [
            Sample(
                storage.join(folder, copy),
                one.category,
                "train",
                0,
                GOOD,
                etag=one.sha256,
                side="train",
                sha256=one.sha256,
            )
            for copy, one in sorted(copies.items())
            if not datasets.excluded(one.image_uri, config.data)
        ]
    return kept
