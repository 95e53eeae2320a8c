"""A lack of memory is recognised whoever reports it, and answered with smaller pieces."""

import pytest
import torch

from mrkd.errors import MemoryShortError
from mrkd.model.memory import Pieces, attempt, is_out_of_memory, memory_errors


def test_the_allocator_of_the_cpu_is_recognised():
    def ask():
        return torch.empty(10**15)

    with pytest.raises(RuntimeError) as error:
        ask()
    assert is_out_of_memory(error.value)
    assert attempt(ask) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("full"), True),
        (MemoryError(), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("out of memory, says a stranger"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_other_errors_are_not(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError("full"), MemoryError()])
def test_a_lack_becomes_an_error_of_ours_by_type(lack):
    def fail():
        raise lack

    with (
        pytest.raises(MemoryShortError, match="out of memory in the gate:") as error,
        memory_errors("the gate"),
    ):
        fail()
    assert error.value.__cause__ is lack


def test_another_error_passes_as_it_is():
    def fail():
        raise RuntimeError("other")

    with pytest.raises(RuntimeError, match="other"), memory_errors("the gate"):
        fail()
    with pytest.raises(RuntimeError, match="other"):
        attempt(fail)


def test_pieces_halve_and_stay_so():
    asked = []

    def do(items):
        asked.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("full")
        return sum(items)

    pieces = Pieces(7)
    assert list(pieces.over([1, 2, 3, 4, 5], do)) == [([1, 2], 3), ([3, 4], 7), ([5], 5)]
    assert asked == [5, 4, 2, 2, 1]
    assert list(pieces.over([6, 7, 8], do)) == [([6, 7], 13), ([8], 8)]
    assert pieces.size == 2


def test_an_item_that_alone_is_too_much_comes_without_a_result():
    def do(items):
        if 3 in items:
            raise torch.OutOfMemoryError("full")
        return sum(items)

    found = list(Pieces(4).over([1, 3, 5], do))
    assert found == [([1], 1), ([3], None), ([5], 5)]
