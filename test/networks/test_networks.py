"""The two networks are those of figures 2 and 3: sizes, layers, shortcuts, dropout."""

import pytest
import torch
from torch import nn

from kits.networks import ARCHITECTURES, ResNet, ResUNet, WideUNet
from kits.networks.resnet import IdentityBlock
from kits.networks.resunet import ResBlock
from kits.networks.wideunet import WIDTHS

RES_UNET = {  # figure 2: module, channels, pixels a side for a slice of 256
    "stem": (8, 256),
    "block1": (16, 256),
    "block2": (32, 128),
    "block3": (64, 64),
    "block4": (128, 32),
    "block5": (256, 16),
    "block6.upsample": (256, 32),
    "block6.block": (128, 32),
    "block7.upsample": (128, 64),
    "block7.block": (64, 64),
    "block8.upsample": (64, 128),
    "block8.block": (32, 128),
    "block9.upsample": (32, 256),
    "block9.block": (16, 256),
    "head": (3, 256),
}
RES_NET = {  # figure 3
    "encode.0": (16, 256),
    "encode.1": (32, 128),
    "encode.2": (64, 64),
    **{f"blocks.{index}": (64, 64) for index in range(16)},
    "decode.0": (64, 128),
    "decode.1": (32, 256),
    "decode.2": (3, 256),
}
LAYERS_OF_A_BLOCK = ["BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]


def kernels(layers):
    return [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) for layer in layers]


def randomised(network, seed=0):
    """In evaluation mode, with batch-norm statistics unlike the initial 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.copy_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
            norm.weight.fill_(1)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "rounded_in_paper", "count"), [("res-unet", 2.43e6, 2_425_459), ("res-net", 1.24e6, 1_242_243)]
)
def test_the_networks_have_as_many_parameters_as_in_the_paper(name, rounded_in_paper, count):
    network = ARCHITECTURES[name]()
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert round(count, -4) == rounded_in_paper


@pytest.mark.parametrize(("architecture", "table"), [(ResUNet, RES_UNET), (ResNet, RES_NET)])
def test_every_layer_gives_the_channels_and_pixels_of_the_figure(architecture, table):
    network, seen = architecture().eval(), {}
    for name in table:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, tuple(output.shape))
        )
    with torch.inference_mode():
        logits = network(torch.zeros(1, 5, 256, 256))
    assert seen == {name: (1, channels, pixels, pixels) for name, (channels, pixels) in table.items()}
    assert list(seen) == list(table), "the layers run in the figure's order"
    assert logits.shape == (1, 3, 256, 256)


def test_the_res_unet_has_the_kernels_and_strides_of_figure_2():
    network = ResUNet()
    assert kernels([network.stem, network.head]) == [(5, 8, (3, 3), (1, 1)), (16, 3, (1, 1), (1, 1))]
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    ins, outs = (8, 16, 32, 64, 128, 384, 192, 96, 48), (16, 32, 64, 128, 256, 128, 64, 32, 16)
    for block, inputs, outputs, stride in zip(blocks, ins, outs, (1, 2, 2, 2, 2, 1, 1, 1, 1), strict=True):
        assert [type(layer).__name__ for layer in block.residual] == LAYERS_OF_A_BLOCK
        first, second = block.residual[2], block.residual[5]
        assert kernels([first, second, block.shortcut]) == [
            (inputs, outputs, (3, 3), (stride, stride)),
            (outputs, outputs, (3, 3), (1, 1)),
            (inputs, outputs, (1, 1), (stride, stride)),
        ]
    ups = [module for module in network.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert kernels(ups) == [(n, n, (2, 2), (2, 2)) for n in (256, 128, 64, 32)]


def test_the_res_net_has_the_kernels_and_strides_of_figure_3():
    network = ResNet()
    assert kernels(network.encode) == [
        (5, 16, (7, 7), (1, 1)),
        (16, 32, (3, 3), (2, 2)),
        (32, 64, (3, 3), (2, 2)),
    ]
    assert [type(block) for block in network.blocks] == [IdentityBlock] * 16
    for block in network.blocks:
        layers = [type(layer).__name__ for layer in block.residual]
        assert layers == ["BatchNorm2d", "ReLU", "Conv2d", "Dropout"] * 2
        assert kernels([block.residual[2], block.residual[6]]) == [(64, 64, (3, 3), (1, 1))] * 2
        assert [layer.p for layer in block.residual if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert [type(layer) for layer in network.decode] == [nn.ConvTranspose2d, nn.ConvTranspose2d, nn.Conv2d]
    assert kernels(network.decode) == [
        (64, 64, (2, 2), (2, 2)),
        (64, 32, (2, 2), (2, 2)),
        (32, 3, (7, 7), (1, 1)),
    ]


def test_a_res_unet_block_adds_a_linear_projection_of_its_raw_input():
    block = randomised(ResBlock(3, 4, stride=2))
    with torch.inference_mode():
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        whole, residual = block(x.clone()), block.residual(x.clone())
        projected = torch.einsum("oc,bcyx->boyx", block.shortcut.weight[:, :, 0, 0], x[:, :, ::2, ::2])
        projected += block.shortcut.bias[:, None, None]
    torch.testing.assert_close(whole - residual, projected)
    assert (projected < 0).any(), "an activation on the shortcut would have been noticed"


def test_a_res_net_block_adds_its_input_unchanged():
    block = randomised(IdentityBlock(4))
    with torch.inference_mode():
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        whole, residual = block(x.clone()), block.residual(x.clone())
    torch.testing.assert_close(whole, x + residual)
    assert residual.abs().max() > 0.1


@pytest.mark.parametrize("architecture", [ResUNet, ResNet])
def test_a_block_leaves_the_tensor_that_it_is_given_alone(architecture):
    network = architecture()
    block = randomised(network.block2 if architecture is ResUNet else network.blocks[0])
    x = torch.randn(1, block.residual[0].num_features, 8, 8, generator=torch.Generator().manual_seed(1))
    given = x.clone()
    with torch.inference_mode():
        block(x)
    torch.testing.assert_close(x, given, rtol=0, atol=0)


def test_dropout_acts_in_training_only_and_in_the_res_net_only():
    x = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    res_unet, res_net = ResUNet(), ResNet()
    with torch.no_grad():
        assert not torch.equal(res_net.train()(x), res_net(x))
        torch.testing.assert_close(res_net.eval()(x), res_net(x), rtol=0, atol=0)
        torch.testing.assert_close(res_unet.train()(x), res_unet(x), rtol=0, atol=0)


def test_a_shift_by_16_px_shifts_the_output_of_the_res_unet():
    network = randomised(ResUNet())
    shift = 16
    x = torch.randn(1, 5, 16, 240, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        here, there = network(x), network(torch.roll(x, shift, dims=-1))
    inside = slice(112, 128)  # columns farther from the borders than the network sees
    moved = slice(inside.start + shift, inside.stop + shift)
    torch.testing.assert_close(there[..., moved], here[..., inside], rtol=1e-3, atol=1e-4)
    assert (there[..., inside] - here[..., inside]).abs().max() > 0.1, "the output is no constant"


@pytest.mark.parametrize(("architecture", "multiple"), [(ResUNet, 16), (ResNet, 4), (WideUNet, 32)])
def test_any_slice_of_a_multiple_of_the_stride_keeps_its_size(architecture, multiple):
    with torch.inference_mode():
        logits = architecture().eval()(torch.zeros(1, 5, 2 * multiple, 3 * multiple))
    assert logits.shape == (1, 3, 2 * multiple, 3 * multiple)


def test_the_wide_unet_joins_what_it_saw_at_every_scale():
    network = WideUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_146_428
    shapes = {}
    for level, (encode, decode) in enumerate(zip(network.encode, [*network.decode, None], strict=True)):
        for way, module in (("down", encode), ("up", decode)):
            if module is not None:
                module.register_forward_hook(
                    lambda _module, _inputs, output, key=(way, level): shapes.__setitem__(key, output.shape[1:])
                )
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 5, 64, 96))
    for level, width in enumerate(WIDTHS):
        expected = (width, 32 >> level, 48 >> level)
        assert shapes["down", level] == expected
        assert level == len(WIDTHS) - 1 or shapes["up", level] == expected


def test_every_scale_of_the_wide_unet_tells_in_its_output():
    network = randomised(WideUNet())
    x = torch.randn(1, 5, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = network(x)
        for level in range(len(WIDTHS) - 1):
            kept = network.narrow[level].weight.clone()
            network.narrow[level].weight.zero_()
            assert (network(x) - whole).abs().max() > 1e-3, level
            network.narrow[level].weight.copy_(kept)
