"""Texts of the night's page: measures, meanings of the lights, advice on errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mrkd.reports.kit import page

STAGES = ("list", "read", "decode", "score", "commit", "close")

IMAGE_KINDS = (
    (
        "highest",
        "Called defective",
        "The images furthest above their threshold, each category's furthest first.",
    ),
    (
        "borderline",
        "Borderline",
        "The closest calls, good or defective: look here first when you think of moving a "
        "threshold.",
    ),
    (
        "audit",
        "Called good, drawn at random",
        "For audit: a person who looks at these every night learns what slips through. The draw "
        "hangs on the night's name alone.",
    ),
)
"""Fields of `NightData` and anchors of the page, with title and meaning."""


@dataclass(frozen=True)
class Aspect:
    """One of the lights.

    Args:
        title: title of the light.
        rule: rule that makes it amber or red.
        means: advice when it is.
    """

    title: str
    rule: str
    means: str


_SPREADS = (
    "The figure is how far tonight's distribution lies from the reference's, in spreads of the "
    "reference's images (5 to 95\u00a0% quantiles, on average, each counted to 4 spreads at most). "
    "Amber above 0.5, red above 1, each on top of what chance makes of so few images, or of what "
    "the earlier nights differ among themselves if that is more."
)
ASPECTS = {
    "quality": Aspect(
        "Image quality",
        f"Brightness, contrast and sharpness of all images. {_SPREADS} Sizes: the share of images, "
        "at least, that are of another size or shape; amber above 10\u00a0%, red above 30\u00a0%, "
        "on top of the same chance and differences.",
        "Look at lamps, lens, focus and camera settings, not at the product.",
    ),
    "scores": Aspect(
        "Scores of OK parts",
        f"Scores of the images called good, up to the threshold. {_SPREADS} Of earlier nights only "
        "those count that the same model and calibration scored.",
        "If the image quality is green, the product changed: another batch, material or setting. "
        "The threshold promises its false-call rate for the old one.",
    ),
    "nok_rate": Aspect(
        "NOK rate",
        "The share called defective. Against earlier nights of the same model and calibration: "
        "amber when it moved by more than three, red by more than six of its usual changes "
        "(between nights and by chance), and by a quarter, a half of the usual rate at least. "
        "Against the calibration: amber when neither false calls at the rate that it supports nor "
        "what is usual by the nights explain it; never red, as real defects are not drift.",
        "If the other two are green, there are more, or fewer, defects than usual; on a line's "
        "first nights its good parts may look unlike those of the training: then set the "
        "threshold by one of them (mrkd models calibrate).",
    ),
}
"""By the names of `drift.Lights`, in the page's order."""


@dataclass(frozen=True)
class MeasureText:
    """How a measure is written.

    Args:
        title: title of the measure.
        value: writes the median or the rate itself; None where there is none to show.
        figure: writes the size of a change.
        limit: writes the change above which a light changes.
        down: word for a change below 0.
        up: word for a change above 0.
    """

    title: str
    value: Callable[[float], str] | None
    figure: Callable[[float], str]
    limit: Callable[[float], str]
    down: str
    up: str

    def moved(self, figure: float) -> str:
        """The direction of a change in a word; empty without a change."""
        if not figure:
            return ""
        return self.down if figure < 0 else self.up

    def change(self, figure: float) -> str:
        """Size and direction of a change."""
        return f"{self.figure(figure)} {self.moved(figure)}".strip()

    def bound(self, limit: float) -> str:
        """A limit; `never` for an infinite one."""
        return self.limit(limit) if math.isfinite(limit) else "never"


def _spreads(value: float) -> str:
    return f"{abs(value):.2f} spreads"


def _points(value: float) -> str:
    points = abs(value) * 100
    return f"{points:{page.digits(points)}} points"


_QUALITY = (page.score, _spreads, _spreads)
MEASURES = {
    "brightness": MeasureText("Brightness", *_QUALITY, "darker", "brighter"),
    "contrast": MeasureText("Contrast", *_QUALITY, "less contrast", "more contrast"),
    "sharpness": MeasureText("Sharpness", *_QUALITY, "less sharp", "sharper"),
    "size": MeasureText("Sizes", None, page.percent, page.percent, "other sizes", "other sizes"),
    "image_score": MeasureText("Scores of OK parts", *_QUALITY, "lower scores", "higher scores"),
    "nok_rate": MeasureText(
        "NOK rate", page.percent, _points, _points, "fewer defective", "more defective"
    ),
}
"""By `drift.Finding.measure`."""

ERROR_WORDS = {
    "missing": (
        "gone when they were read",
        "They were listed, and deleted or moved before the night read them. If they are back, "
        "start the night again with --retry-errors missing; make the job that deletes them wait.",
    ),
    "forbidden": (
        "not allowed to be read",
        "Give the night's credentials the right to read them, or what an image's own message asks "
        "for (restore an archived one, set the clock), then start it again with --retry-errors "
        "forbidden.",
    ),
    "unreachable": (
        "not reached",
        "The storage did not answer in time, again and again, or it cannot give them (a disabled "
        "key): an image's own message says which. Start the night again with --retry-errors "
        "unreachable once it does.",
    ),
    "empty": ("empty files", "They hold 0 bytes: a camera or a copy was cut off. Send them again."),
    "decode": (
        "damaged",
        "They are not readable images: look at one of them at its source. Copy them again "
        "if it is whole there.",
    ),
    "truncated": (
        "cut off",
        "They end too early, mostly because they were listed while they were still written. Copy "
        'them again; archive.truncated = "accept" scores what is there, in a new run.',
    ),
    "too_large": (
        "too large",
        "They exceed archive.max_pixels or archive.max_bytes: raise the bound if they are meant, "
        "in a new run.",
    ),
    "unsupported": (
        "of a format that is not read",
        "Save them as PNG, JPEG, TIFF, BMP or WebP with 8 or 16 bits, one image a file.",
    ),
    "no_model": (
        "of a category without a model",
        "Train it, then start the night again with --retry-errors no_model. Where the category is "
        "misread, correct the archive's template and score them in a new run.",
    ),
    "changed": (
        "overwritten during the night",
        "They were replaced between listing and reading. Start the night again: it scores what is "
        "there now.",
    ),
    "internal": (
        "crashing the processes that read them",
        "They crash what works on them, or ask for more memory than there is. Keep one of them and "
        "report it.",
    ),
    "unlike": (
        "unlike all good images",
        "Their brightness, contrast, sharpness, tint, size or map lies outside all good images': "
        "no light, a dead camera, no part, or the wrong one. Look at one of them. If such images "
        "are good, train with some of them; or score them in a new run with rows.unlike = "
        '"accept", whose rows set threshold and ranges by this line (mrkd models calibrate).',
    ),
}
"""By `schema.ERROR_KINDS`: what such images are, and what to do."""
