"""The plant and its calm night, in this process."""

from tests.support.plants import archive, calm, own_archive, plant

__all__ = ["archive", "calm", "own_archive", "plant"]
