"""The bench of a GPU, as far as a CPU can run it."""

from datetime import UTC, datetime

import pytest
import torch

from tests.bench import gpu


def test_a_speed_stands_beside_the_cards_limit():
    found = gpu.measure(torch.device("cpu"), "resnet18", count=3, size=64, flop_per_s=1e12)
    assert found.images_per_s > 0
    # The teacher alone, up to its third block: 1.8 GFLOP are torchvision's for 224 px, to the end.
    assert 0.1 < found.gflop < 1.0
    assert found.limit_per_s == pytest.approx(1e12 / (1e9 * found.gflop))
    assert gpu.product_speed(torch.device("cpu"), 64) > 0


def test_the_table_and_its_name():
    speeds = [gpu.Speed("resnet18", 250.0, 4.0, 1000.0)]
    text = gpu.table(speeds, card="NVIDIA H200", command="c", flop_per_s=4e12)
    assert "| resnet18 | 250.0 | 4.00 | 1000.0 | 25% |" in text
    assert "runs at 4.0 TFLOPS" in text
    name = gpu.file_name("NVIDIA H200 (MIG 1g)", datetime(2026, 12, 1, tzinfo=UTC))
    assert name == "gpu_nvidia-h200-mig-1g_202612.md"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_says_why_it_is_skipped(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu"])
    gpu.main()
    assert "gpu bench skipped: PyTorch" in capsys.readouterr().out
