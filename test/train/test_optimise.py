"""What a run begins with, and what of it learns."""

import torch
from torch import nn

from kits.choices import CYST, KIDNEY, TUMOUR
from kits.networks import ARCHITECTURES
from kits.networks.wideunet import FEW_CYSTS
from train.config import Schedule
from train.optimise import CYSTS, optimiser_of, set_modes, with_cysts


def randomised(network: nn.Module) -> nn.Module:
    """Weights at random everywhere, those that begin at nought too."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def test_a_network_that_learns_of_cysts_begins_with_what_it_knew() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["wide-unet"]().eval()
    wider = with_cysts(network, "wide-unet").eval()
    stacks = torch.randn(1, 5, 64, 64)
    with torch.inference_mode():
        before, after = network(stacks).softmax(1), wider(stacks).softmax(1)
    few = torch.tensor(FEW_CYSTS).sigmoid()
    assert torch.allclose(after[:, [0, TUMOUR]], before[:, [0, TUMOUR]], atol=1e-5)
    assert torch.allclose(after[:, KIDNEY], before[:, KIDNEY] * (1 - few), atol=1e-5)


def test_cysts_are_taken_from_kidney_and_from_nothing_else() -> None:
    wider = randomised(ARCHITECTURES["wide-unet"](4))
    network = ARCHITECTURES["wide-unet"]()
    network.load_state_dict({k: v for k, v in wider.state_dict().items() if not k.startswith(CYSTS)})
    stacks = torch.randn(1, 5, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        before, after = network.eval()(stacks).softmax(1), wider(stacks).softmax(1)
    share = after[:, CYST] / (after[:, CYST] + after[:, KIDNEY])
    assert share.std() > 0.01, "it depends on what is seen"
    assert torch.allclose(after[:, [0, TUMOUR]], before[:, [0, TUMOUR]], atol=1e-5)
    assert torch.allclose(after[:, KIDNEY] + after[:, CYST], before[:, KIDNEY], atol=1e-5)


def test_what_does_not_learn_stays_with_its_batch_norms() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["wide-unet"](4)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(CYSTS))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser, _ = optimiser_of(network, Schedule(0.1), 1)
    set_modes(network, dropout=False)
    network(torch.randn(2, 5, 64, 64))[:, CYST].mean().backward()
    optimiser.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith(CYSTS) for name in moved)
    assert any(name.endswith("running_mean") for name in moved)
