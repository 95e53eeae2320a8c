"""Device and precision are chosen by what is there and what was measured, and say why."""

import time

import pytest
import torch

from mrkd.errors import ConfigError
from mrkd.model import device

HAS_CUDA = torch.cuda.is_available()


def timed(float32_s: float, bfloat16_s: float):
    seconds = {torch.float32: float32_s, torch.bfloat16: bfloat16_s}
    return seconds.__getitem__


def test_auto_takes_cuda_where_there_is_one():
    found = device.choose("auto", "float32").device
    assert found == torch.device("cuda" if HAS_CUDA else "cpu")


def test_cpu_is_taken_when_asked_for():
    placement = device.choose("cpu", "float32")
    assert placement.device == torch.device("cpu")
    assert placement.reason == "device cpu (asked for), float32 (asked for)"


@pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA device here")
def test_cuda_where_there_is_none_is_a_config_error():
    with pytest.raises(ConfigError, match="'cuda' but PyTorch finds no CUDA device"):
        device.choose("cuda", "float32")


@pytest.mark.gpu
def test_cuda_is_taken_when_asked_for():
    assert device.choose("cuda", "float32").device == torch.device("cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_stated_precision_is_not_measured(precision):
    def measure(_: torch.dtype) -> float:
        pytest.fail("measured")

    placement = device.choose("cpu", precision, measure=measure)
    assert placement.precision == getattr(torch, precision)


def test_float32_has_all_its_digits_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device.choose("auto", "float32")
    assert not torch.backends.cudnn.allow_tf32


def test_auto_precision_without_a_measurement_is_float32():
    placement = device.choose("cpu", "auto")
    assert placement.precision == torch.float32
    assert "nothing was measured" in placement.reason


@pytest.mark.parametrize(
    ("bfloat16_s", "expected"),
    [(0.5, torch.bfloat16), (0.869, torch.bfloat16), (0.871, torch.float32), (2.0, torch.float32)],
)
def test_bfloat16_is_taken_from_1_15_times_faster(bfloat16_s, expected):
    assert device.choose("cpu", "auto", measure=timed(1.0, bfloat16_s)).precision == expected


def test_a_step_that_was_slow_once_does_not_decide():
    float32_s = iter([0.3, 0.1, 0.1])  # other work ran beside the first one

    def measure(dtype: torch.dtype) -> float:
        return next(float32_s) if dtype is torch.float32 else 0.1

    assert device.choose("cpu", "auto", measure=measure).precision is torch.float32


def test_the_reason_says_what_was_measured():
    reason = device.choose("cpu", "auto", measure=timed(0.3, 0.1)).reason
    assert "bfloat16 (a step takes 300.0 ms in float32, 100.0 ms in bfloat16" in reason


def test_a_real_step_can_be_measured():
    weight = torch.randn(64, 64)

    def measure(dtype: torch.dtype) -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            weight @ weight
        return time.perf_counter() - began

    assert device.choose("cpu", "auto", measure=measure).precision in (
        torch.float32,
        torch.bfloat16,
    )
