"""Whatever bytes a table of a person holds, it is read or refused by one of mrkd's errors."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrkd.cli.main import main
from mrkd.config import DataConfig, EvalConfig, ScoreConfig, TrainConfig
from mrkd.config.text import decoded
from mrkd.config.toml import parsed
from mrkd.data import datasets
from mrkd.errors import MrkdError
from mrkd.nights import model_versions
from mrkd.nights.reviews.labels_csv import read_labels

TOML = """workspace = "w"
run = "night-1"
[data]
root = "parts"
categories = ["ring", "plate"]
[price]
cpu_hour = 0.5
[category."ring*".train]
seed = 1
"""
SPLIT = "path,group,part\ntest/good/0.png,1,test\ntest/spot/1.png,2,val\ntrain/good/2.png,3,train\n"
ELPV = "images/cell0001.png  1.0  mono\nimages/cell0002.png  0.3333333  poly\n"
VISA = """object,split,label,image,mask
candle,train,normal,candle/0.JPG,
candle,test,anomaly,candle/1.JPG,candle/1.png
"""
VERDICTS = """uri,verdict,who,when
s3://bucket/ring/1.png,OK,Ann,2026-11-24
/data/ring/2.png,NOK,Bo,2026-11-24T06:30+01:00
"""
HARD = [
    "",
    "nan",
    "9" * 5000,
    "-1",
    "1e400",
    "\0",
    '"',
    "é",
    "🙂",
    "s3://a:b@c",
    "2020-01-01",
    "../..",
]
HARD += ["[" * 3000, "x" * 140_000, "0001-01-01T00:00+14:00", "\ufeff", "\x85", "file://", "\\"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"]


@st.composite
def mutated(draw, text):
    """A table with fields exchanged, in another encoding, with bytes changed; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    lines = text.split("\n")
    for _ in range(draw(st.integers(0, 3))):
        separator = draw(st.sampled_from([",", " ", "=", "."]))
        n = draw(st.integers(0, len(lines) - 1))
        fields = lines[n].split(separator)
        at = draw(st.integers(0, len(fields) - 1))
        fields[at] = draw(st.sampled_from(HARD) | st.text(max_size=8) | st.just(fields[-1 - at]))
        lines[n] = separator.join(fields)
        lines.insert(draw(st.integers(0, len(lines))), lines[draw(st.integers(0, len(lines) - 1))])
    separator = draw(st.sampled_from([",", ";", "\t"]))
    text = "\n".join(lines).replace(",", separator)
    data = bytearray(text.encode(draw(st.sampled_from(ENCODINGS)), errors="replace"))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def any_table(text):
    """Settings and examples for a property of one table."""

    def decorate(test):
        test = example(text.encode())(given(data=mutated(text))(test))
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        return settings(deadline=None, max_examples=150, suppress_health_check=checks)(test)

    return decorate


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def loaded(root, layout):
    with contextlib.suppress(MrkdError):
        datasets.load(DataConfig(str(root), layout))


@any_table(TOML)
@pytest.mark.parametrize("kind", [TrainConfig, EvalConfig, ScoreConfig])
def test_any_bytes_as_toml(kind, data):
    with contextlib.suppress(MrkdError):
        kind.from_dict(parsed(decoded(data, "file"))).digest()


@any_table(TOML)
def test_any_bytes_as_the_toml_of_a_command(tmp_path, capsys, data):
    path = tmp_path / "fleet.toml"
    path.write_bytes(data)
    assert main(["train", str(path), "--show-config"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@any_table('plate = "v1"\nring = "v2"\n')
@pytest.mark.parametrize("name", ["models.toml", "models.json"])
def test_any_bytes_as_a_file_of_versions(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with contextlib.suppress(MrkdError):
        model_versions._of_file(str(path))


@any_table(SPLIT)
def test_any_bytes_as_a_split(tmp_path, data):
    ring = tmp_path / "ring"
    for name in ("test/good/0.png", "test/spot/1.png", "train/good/2.png"):
        image(ring / name)
    (ring / "split.csv").write_bytes(data)
    loaded(tmp_path, "mvtec")


@any_table(ELPV)
def test_any_bytes_as_labels_of_solar_cells(tmp_path, data):
    image(tmp_path / "images" / "cell0001.png")
    (tmp_path / "labels.csv").write_bytes(data)
    loaded(tmp_path, "elpv")


@any_table(VISA)
def test_any_bytes_as_the_split_of_visa(tmp_path, data):
    for name in ("0.JPG", "1.JPG", "1.png"):
        image(tmp_path / "candle" / name)
    (tmp_path / "split_csv").mkdir(exist_ok=True)
    (tmp_path / "split_csv" / "1cls.csv").write_bytes(data)
    loaded(tmp_path, "visa")


@any_table(VERDICTS)
def test_any_bytes_as_verdicts(tmp_path, data):
    Path(tmp_path / "labels.csv").write_bytes(data)
    with contextlib.suppress(MrkdError):
        read_labels(str(tmp_path / "labels.csv"))
