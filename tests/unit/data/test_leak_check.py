from pathlib import Path

import cv2
import numpy as np
import pytest

from mrkd.data.leak_check import find_leaks
from tests.support.parts import make_parts


@pytest.fixture
def shoot(tmp_path):
    """Photographs a part: its grain, under a light of its own, with a camera's noise."""

    def shoot(name, part, exposure=0):
        rng = np.random.default_rng([part, 1])
        grain = cv2.GaussianBlur(rng.normal(0, 1, (96, 80)).astype(np.float32), (0, 0), 1.5)
        light = np.linspace(60, 120 + 30 * exposure, 80)[None]
        noise = np.random.default_rng([part, exposure, 2]).normal(0, 1, (96, 80))
        picture = np.clip(light * (1 + 0.4 * grain) + noise, 0, 255).astype(np.uint8)
        path = tmp_path / name
        cv2.imwrite(str(path), picture)
        return str(path)

    return shoot


def test_a_part_under_another_light_is_found(shoot):
    trained = [shoot(f"train-{part}.png", part) for part in range(20)]
    judged = [shoot(f"test-{part}.png", part, exposure=3) for part in (3, 11, *range(30, 40))]
    found = find_leaks(trained, judged)
    assert [(one.image_uri, one.training_uri) for one in found] == sorted(
        [(judged[0], trained[3]), (judged[1], trained[11])],
        key=lambda pair: [one.image_uri for one in found].index(pair[0]),
    )
    assert all(0.5 < one.similarity <= 1 for one in found)


def test_other_parts_are_not(shoot):
    trained = [shoot(f"train-{part}.png", part) for part in range(20)]
    assert find_leaks(trained, [shoot(f"test-{part}.png", part) for part in range(20, 60)]) == []


@pytest.mark.parametrize("sizes", [(24, 6, 6), (40, 20, 20)])
def test_parts_of_one_shape_are_not_taken_for_one_part(sizes, tmp_path):
    root = make_parts(tmp_path, 3, *sizes)
    for category in root.iterdir():
        trained = [str(path) for path in sorted(category.glob("train/good/*.png"))]
        judged = [str(path) for path in sorted(category.glob("test/*/*.png"))]
        assert find_leaks(trained, judged) == []
        copy = category / "copy.png"
        copy.write_bytes(Path(trained[5]).read_bytes())
        (leak,) = find_leaks(trained, [*judged, str(copy)])
        assert (leak.image_uri, leak.training_uri) == (str(copy), trained[5])
        assert leak.similarity == pytest.approx(1)


def test_what_cannot_be_decoded_is_left_out_and_no_pictures_have_no_leaks(shoot, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    trained = [shoot(f"{part}.png", part) for part in range(5)]
    (leak,) = find_leaks([str(broken), *trained], [str(broken), trained[2]])
    assert leak.training_uri == trained[2]
    assert find_leaks([], trained) == find_leaks(trained, []) == []
