"""What a run begins with."""

import pytest
import torch

from kits.networks import ARCHITECTURES
from train.optimise import FEWER_CYSTS, with_classes


@pytest.mark.parametrize("name", ["res-net", "res-unet", "wide-unet"])
def test_a_network_that_learns_of_cysts_begins_with_what_it_knew(name: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[name]().eval()
    wider = with_classes(network, name, 4).eval()
    stacks = torch.randn(1, 5, 64, 64)
    with torch.inference_mode():
        before, after = network(stacks), wider(stacks)
    assert torch.allclose(after[:, :3], before, atol=1e-4)
    assert torch.allclose(after[:, 3], before[:, 1] - FEWER_CYSTS, atol=1e-4)
