"""A network in some precision on a device: on the CPU, and with the CPU as a stand-in for a GPU and its graphs."""

import logging
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kits.errors import KitsError
from kits.networks import ARCHITECTURES
from kits.runtime import placed as module
from kits.runtime.engine import Engine
from kits.runtime.placed import MOST_APART, Placed, place, probe

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
HALVES = (torch.float16, torch.bfloat16)


def trained(name: str) -> nn.Module:
    """A network with statistics as after training: not those that batch norm starts from."""
    torch.manual_seed(0)
    network = ARCHITECTURES[name]().eval().requires_grad_(False)
    for one in network.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.normal_(0, 0.1)
            one.running_var.uniform_(0.5, 2)
    return network


def overflowing() -> nn.Module:
    """A network whose middle is beyond fp16's largest number, 65504, and within bf16's."""
    network = nn.Sequential(nn.Conv2d(5, 5, 1), nn.Conv2d(5, 3, 1)).eval().requires_grad_(False)
    for layer, factor in zip(network, (1e5, 1e-5), strict=True):
        nn.init.dirac_(layer.weight).mul_(factor)
        layer.bias.zero_()
    return network


@pytest.fixture
def on_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the CPU stand in for the GPU; gives the sizes of the batches that were to be recorded."""
    recorded: list[int] = []

    class StandIn(Placed):
        def __init__(self, network: nn.Module, device: torch.device, precision: torch.dtype) -> None:
            super().__init__(network, CPU, precision)

        def record(self, batch: int) -> None:
            recorded.append(batch)

    monkeypatch.setattr(module, "Placed", StandIn)
    return recorded


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A function that sets what recording does to the true logits; gives the list of the batches replayed."""

    def install(made: Callable[[torch.Tensor], torch.Tensor]) -> list[int]:
        replayed: list[int] = []

        def graphed(forward: Callable, sample: tuple[torch.Tensor]) -> Callable:
            made(forward(*sample))

            def replay(stacks: torch.Tensor) -> torch.Tensor:
                replayed.append(len(stacks))
                return made(forward(stacks))

            return replay

        monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        return replayed

    return install


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision_agrees_with_autocast_to_within_its_rounding(name: str, precision: torch.dtype) -> None:
    network, stacks = trained(name), probe(1)[..., :64, :64].contiguous()
    with torch.inference_mode(), torch.autocast("cpu", precision):
        expected = network(stacks)
    got = Placed(network, CPU, precision)(stacks)
    assert got.dtype == expected.dtype == precision
    rounding = torch.finfo(precision).eps * expected.abs().max()
    assert (got - expected).abs().max() <= 4 * rounding


@pytest.mark.parametrize("precision", HALVES)
def test_convolutions_are_held_in_half_precision_batch_norm_in_single(precision: torch.dtype) -> None:
    network = trained("res-unet")
    for one in Placed(network, CPU, precision).network.modules():
        if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
            assert one.weight.dtype == one.bias.dtype == precision
        elif isinstance(one, nn.BatchNorm2d):
            assert one.weight.dtype == one.running_var.dtype == torch.float32
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}, "the original was changed"


def test_in_single_precision_the_cpu_runs_the_network_itself() -> None:
    network = trained("res-unet")
    stacks = probe(2)[..., :64, :64]
    placed = place(network, CPU, (torch.float32,), 4)
    assert placed.network is network
    assert torch.equal(placed(stacks), network(stacks.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize(
    ("precisions", "taken"),
    [
        ((torch.float16, torch.bfloat16, torch.float32), torch.bfloat16),
        ((torch.float16, torch.float32), torch.float32),
        ((torch.bfloat16,), torch.bfloat16),
    ],
)
def test_the_first_precision_that_gives_the_cpus_numbers_is_taken(
    precisions: tuple[torch.dtype, ...], taken: torch.dtype, on_stand_in: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    placed = place(overflowing(), GPU, precisions, 32)
    assert placed.precision == taken
    assert on_stand_in == [32]
    assert ("In float16 the GPU's probabilities are nan off" in caplog.text) == (torch.float16 in precisions)


def test_networks_that_fit_run_in_fp16(on_stand_in: list[int], caplog: pytest.LogCaptureFixture) -> None:
    placed = place(trained("wide-unet"), GPU, (torch.float16, torch.float32), 32)
    assert (placed.precision, caplog.text) == (torch.float16, "")


def test_a_precision_that_was_asked_for_and_does_not_serve_is_an_error(on_stand_in: list[int]) -> None:
    with pytest.raises(KitsError, match="leave --precision out"):
        place(overflowing(), GPU, (torch.float16,), 32)


def test_the_engine_goes_by_what_its_network_was_placed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Engine("cpu", "torch", "fp32")
    machine.precisions = (torch.bfloat16, torch.float32)
    machine.place(trained("res-net"))
    assert machine.precision_name == "bf16"


def test_batches_of_the_recorded_size_are_replayed_others_not(graphs: Callable[..., list[int]]) -> None:
    replayed = graphs(lambda logits: logits)
    network = trained("res-net")
    placed = Placed(network, CPU, torch.float32)
    with torch.inference_mode():
        placed.record(2)
        replayed.clear()
        for size in (2, 1, 2):
            assert torch.equal(placed(probe(size)), network(probe(size).contiguous(memory_format=torch.channels_last)))
        assert replayed == [2, 2]
        placed.forget()
        placed(probe(2))
    assert replayed == [2, 2]


@pytest.mark.parametrize(
    "made", [lambda logits: logits + 9 * torch.eye(3)[0, :, None, None], lambda logits: logits * float("nan")]
)
def test_a_recording_that_gives_other_numbers_is_refused(
    made: Callable[[torch.Tensor], torch.Tensor],
    graphs: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    graphs(made)
    placed = Placed(trained("res-net"), CPU, torch.float32)
    placed.record(1)
    assert placed.graph is None
    assert "launched one by one" in caplog.text


@pytest.mark.parametrize("trouble", [RuntimeError("capturing failed"), torch.cuda.OutOfMemoryError("too much")])
def test_what_cannot_be_recorded_runs_as_it_is(
    trouble: Exception, graphs: Callable[..., list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(logits: torch.Tensor) -> torch.Tensor:
        raise trouble

    graphs(fail)
    placed = Placed(trained("res-net"), CPU, torch.float32)
    with caplog.at_level(logging.INFO):
        placed.record(1)
    assert placed.graph is None
    assert str(trouble) in caplog.text


def test_a_recording_is_given_up_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stacks: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("too much")

    torch.manual_seed(0)
    network, slices = nn.Conv2d(5, 3, 1).eval(), torch.randn(4, 256, 256)
    machine = Engine("cpu", "torch", "fp32")
    recorded = machine.place(network)
    recorded.graph, recorded.batch = full, machine.batch
    got = machine.predict([recorded], slices, range(4), [(0, 0)])
    assert torch.allclose(got, machine.predict([network], slices, range(4), [(0, 0)]), atol=1e-6)
    assert (recorded.graph, machine.batch) == (None, 2)


@pytest.mark.parametrize(("precision", "tf32"), [(torch.float32, False), (torch.float16, True)])
def test_single_precision_on_a_gpu_is_not_tf32_and_nothing_stays_changed(precision: torch.dtype, tf32: bool) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.enabled
    placed = object.__new__(Placed)  # a real one needs a GPU
    placed.device, placed.precision = GPU, precision
    with placed.kernels():
        assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.enabled) == (tf32, True, True)
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.enabled) == before


def test_the_probe_is_the_same_every_time_and_shows_a_body() -> None:
    assert torch.equal(probe(1), probe(1))
    assert torch.equal(probe(2)[0], probe(2)[1])
    assert probe(3).shape == (3, 5, 256, 256)
    assert probe(1)[0, 2, 0, 0] < -1 < probe(1)[0, 2, 128, 128]
    assert MOST_APART < 0.05
