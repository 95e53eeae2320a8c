"""Tables and configs that people write: any bytes are read, or refused by our own errors."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrkd.cli.main import main
from mrkd.config import DataConfig
from mrkd.data import datasets
from mrkd.errors import MrkdError
from mrkd.nights import model_versions
from mrkd.nights.reviews.labels_csv import read_labels

SPLIT = "path,group,part\ntrain/good/0.png,a,train\ntest/bad/1.png,b,test\n"
VISA = (
    "object,split,label,image,mask\ncup,train,normal,cup/0.png,\ncup,test,anomaly,cup/1.png,m.png\n"
)
ELPV = "images/cell0001.png  0.0 mono\nimages/cell0002.png  1.0 poly\n"
LABELS = "uri,verdict,who,when\ns3://plant/a.png,OK,Ann,2026-11-24\n"
MODELS = 'cup = "0123456789abcdef"\n'
CONFIG = 'workspace = "w"\nrun = "r"\n[data]\nroot = "parts"\n[train]\nbatch_size = 4\n'

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")
WORDS = ("", "nan", "-1", "1e999", "x" * 200_000, "\0", "ä", '"', "'", "\r", ";", "\t", "é\ud7ff")


@st.composite
def damaged(draw, text):
    """The text with cells exchanged, in any encoding, with bytes flipped; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    lines = text.splitlines()
    for _ in range(draw(st.integers(0, 3))):
        n = draw(st.integers(0, len(lines) - 1))
        cells = lines[n].split(",")
        cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(WORDS) | st.text())
        lines[n] = draw(st.sampled_from(",;\t|")).join(cells)
    lines = draw(st.permutations(lines)) if draw(st.booleans()) else lines
    encoding = draw(st.sampled_from(ENCODINGS))
    data = bytearray("\n".join(lines).encode(encoding, errors="replace"))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for path in ("cup/train/good/0.png", "cup/test/bad/1.png", "cup/0.png", "images/cell0001.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"no image")
    (root / "split_csv").mkdir()
    return root


def load(parts, layout):
    return lambda: datasets.load(DataConfig(str(parts), layout))


READERS = {
    "split": (SPLIT, "split.csv", lambda parts: load(parts / "..", "mvtec")),
    "visa": (VISA, "split_csv/1cls.csv", lambda parts: load(parts, "visa")),
    "elpv": (ELPV, "labels.csv", lambda parts: load(parts, "elpv")),
    "verdicts": (LABELS, "verdicts.csv", lambda p: lambda: read_labels(str(p / "verdicts.csv"))),
    "models": (
        MODELS,
        "models.toml",
        lambda p: lambda: model_versions.read(str(p / "models.toml"), str(p)),
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_table_is_read_or_refused(kind, tmp_path_factory):
    text, name, reader = READERS[kind]
    root = tmp_path_factory.mktemp(kind)
    folder = root / "cup" if kind == "split" else root
    for path in ("train/good/0.png", "test/bad/1.png", "images/cell0001.png", "split_csv/x"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"no image")
    read = load(root, "mvtec") if kind == "split" else reader(root)

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(damaged(text))
    def check(data):
        (folder / name).write_bytes(data)
        try:
            read()
        except MrkdError as error:
            assert str(error)

    check()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=damaged(CONFIG))
def test_a_damaged_config_ends_in_one_line(data, tmp_path_factory, capsys):
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(data)
    assert main(["train", str(path), "--show-config"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_config_that_is_nested_too_deep_is_refused(tmp_path, capsys):
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    assert main(["train", str(path)]) == 2
    assert "not a TOML file" in capsys.readouterr().out
