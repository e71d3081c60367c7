"""Results on their way to the CPU: in order, none lost, each waited for only when the next is under way."""

import numpy as np
import pytest
import torch

from kits.errors import KitsError
from kits.runtime import arriving as module
from kits.runtime.arriving import arriving, check_finite, finite


@pytest.mark.parametrize(
    ("device", "order"),
    [
        ("cpu", ["compute 0", "receive 0", "compute 1", "receive 1", "compute 2", "receive 2"]),
        ("meta", ["compute 0", "compute 1", "receive 0", "compute 2", "receive 1", "receive 2"]),
    ],
)
def test_a_gpu_has_the_next_chunk_before_one_is_waited_for(
    device: str, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []

    def chunks():
        for index in range(3):
            happened.append(f"compute {index}")
            yield index, [torch.empty(2, device=device)]

    monkeypatch.setattr(module, "send", lambda tensor: (tensor, None))
    monkeypatch.setattr(module, "receive", lambda sent: np.zeros(2))
    for index, _ in arriving(chunks()):
        happened.append(f"receive {index}")
    assert happened == order


def test_what_lies_on_the_cpu_arrives_as_it_is() -> None:
    tensors = [torch.arange(3), torch.rand(2, 2)]
    ((name, arrays),) = arriving([("a", tensors)])
    assert name == "a"
    for tensor, array in zip(tensors, arrays, strict=True):
        assert np.array_equal(tensor.numpy(), array)
        assert np.shares_memory(tensor.numpy(), array)
    assert list(arriving([])) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error(wrong: float) -> None:
    probabilities = torch.rand(2, 3, 4, 4)
    check_finite(finite(probabilities))
    probabilities[1, 2, 3, 0] = wrong
    with pytest.raises(KitsError, match="no number; use --precision fp32"):
        check_finite(finite(probabilities))
