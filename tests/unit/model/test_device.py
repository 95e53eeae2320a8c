"""Device and precision are chosen by what is there and what was measured, and say why."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mrkd.errors import DeviceError
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


@pytest.fixture
def no_cuda(monkeypatch):
    """A process to which PyTorch shows no CUDA device, whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cuda_where_there_is_none_is_an_error(no_cuda):
    with pytest.raises(DeviceError, match=r"device is 'cuda' but PyTorch .* finds no CUDA device"):
        device.choose("cuda", "float32")


def test_a_gpu_that_is_held_and_not_usable_is_an_error_with_both_versions(
    no_cuda, monkeypatch, tmp_path
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ebe9f43")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    proc = tmp_path / "version"
    proc.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    monkeypatch.setattr(device, "_DRIVER", proc)
    for asked in ("auto", "cuda"):
        with pytest.raises(DeviceError) as error:
            device.choose(asked, "float32")
        text = str(error.value)
        assert text.startswith("this process holds GPU GPU-5ebe9f43 but PyTorch")
        assert "built for CUDA 13.0, the NVIDIA driver is 535.129.03;" in text
    assert device.choose("cpu", "float32").device.type == "cpu"


def test_the_error_says_where_cuda_and_the_driver_are_missing(no_cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(device, "_SMI", (str(tmp_path / "nvidia-smi"),))
    with pytest.raises(DeviceError, match="built without CUDA, the NVIDIA driver is not found;"):
        device.check_granted("cuda")


def test_the_driver_is_asked_for_where_the_kernel_shows_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "none")
    says = "import sys; print('570.86.15\\n570.86.15'); sys.exit(int(sys.argv[1]))"
    monkeypatch.setattr(device, "_SMI", (sys.executable, "-c", says, "0"))
    assert device.driver_version() == "570.86.15"
    monkeypatch.setattr(device, "_SMI", (sys.executable, "-c", says, "9"))
    assert device.driver_version() == ""


@pytest.mark.parametrize("named", ["", " ", "-1", None])
def test_a_process_without_a_gpu_computes_on_the_cpu(no_cuda, monkeypatch, named):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert device.choose("auto", "float32").device.type == "cpu"


@pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA device here")
def test_a_process_that_holds_a_gpu_without_cuda_ends_at_once():
    code = (
        "import sys\n"
        "from mrkd.errors import MrkdError\n"
        "from mrkd.model import device\n"
        "try: device.check_granted('auto')\n"
        "except MrkdError as error: print(error); sys.exit(error.exit_code)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, time.monotonic() - began < 20) == (1, True), done.stderr
    assert "this process holds GPU 0 but PyTorch" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="PyTorch finds no CUDA device here")
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


def test_steps_that_other_work_slowed_down_do_not_decide():
    """Each precision has one step in seven that ran alone: the first pair of all would mislead."""
    seconds = {
        torch.float32: iter([0.3, 0.9, 0.1, 0.8, 0.7, 0.6]),
        torch.bfloat16: iter([0.1, 0.5, 0.5, 0.5, 0.1, 0.5]),
    }
    order = []

    def measure(dtype: torch.dtype) -> float:
        order.append(dtype)
        return next(seconds[dtype])

    assert device.choose("cpu", "auto", measure=measure).precision is torch.float32
    assert all(one is not other for one, other in itertools.pairwise(order))  # in turn


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_on_cuda_the_device_decides_and_nothing_is_timed(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    placement = device.choose("auto", "auto", measure=lambda _: pytest.fail("measured"))
    assert placement.precision is expected
    assert f"(compute capability {capability[0]}.{capability[1]})" in placement.reason


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
