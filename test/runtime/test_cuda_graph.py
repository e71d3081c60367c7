"""A network as a CUDA graph: only where it gives the same numbers, faster; on a CPU with a stand-in for the graph."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from kits.networks import ARCHITECTURES
from kits.runtime import cuda_graph as graphs
from kits.runtime.cuda_graph import Recorded, recorded_if_faster
from kits.runtime.engine import Engine

FULL = torch.arange(4.0)[:, None, None, None].expand(4, 5, 8, 8)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(5, 3, 1).eval()


def stand_in(made: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Callable[[torch.Tensor], torch.Tensor]]:
    """For ``Recorded``: gives what ``made`` makes of the true logits."""
    return lambda network, stacks, precision: lambda stacks: made(network(stacks))


@pytest.mark.parametrize(("slower", "kept"), [("network", "recorded"), ("recorded", "network")])
def test_the_faster_one_is_kept(network: nn.Module, slower: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Recorded", stand_in(lambda logits: logits))
    monkeypatch.setattr(
        graphs, "seconds", lambda run, stacks: 2.0 if (run is network) == (slower == "network") else 1.0
    )
    chosen = recorded_if_faster(network, FULL, torch.float32)
    assert (chosen is network) == (kept == "network")
    assert torch.equal(chosen(FULL), network(FULL))


@pytest.mark.parametrize("made", [lambda logits: 2 * logits, lambda logits: logits * float("nan")])
def test_other_numbers_are_refused(
    network: nn.Module,
    made: Callable[[torch.Tensor], torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graphs, "Recorded", stand_in(made))
    monkeypatch.setattr(graphs, "seconds", lambda run, stacks: 2.0 if run is network else 1.0)
    assert recorded_if_faster(network, FULL, torch.float32) is network
    assert "launched one by one" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("capturing failed"), torch.cuda.OutOfMemoryError("too much")])
def test_what_cannot_be_recorded_runs_as_it_is(
    network: nn.Module, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(graphs, "Recorded", fail)
    with caplog.at_level(logging.INFO):
        assert recorded_if_faster(network, FULL, torch.float32) is network
    assert str(error) in caplog.text


def test_only_batches_of_its_shape_are_replayed(network: nn.Module) -> None:
    recorded = object.__new__(Recorded)  # as it is after a recording, for which there is no GPU here
    recorded.network, recorded.stacks_BCYX, recorded.logits_BCYX = network, torch.zeros_like(FULL), torch.empty(0)
    replayed = 0

    class Graph:
        def replay(self) -> None:
            nonlocal replayed
            replayed += 1
            recorded.logits_BCYX = network(recorded.stacks_BCYX)

        def reset(self) -> None:
            pass

    recorded.graph = Graph()  # type: ignore[assignment]
    for times, stacks in ((1, FULL), (1, FULL[:3]), (2, FULL + 1)):
        assert torch.equal(recorded(stacks), network(stacks))
        assert replayed == times
    recorded.forget()
    assert recorded.stacks_BCYX.numel() == recorded.logits_BCYX.numel() == 0
    assert torch.equal(recorded(FULL), network(FULL))
    assert replayed == 2


def test_a_recording_is_given_up_when_memory_runs_out() -> None:
    class Full:
        """A graph whose batch does not fit any more."""

        def replay(self) -> None:
            raise torch.cuda.OutOfMemoryError("too much")

        def reset(self) -> None:
            pass

    torch.manual_seed(0)
    network, slices = nn.Conv2d(5, 3, 1).eval(), torch.randn(4, 256, 256)
    machine = Engine("cpu", "torch", "fp32")
    machine.batch = 4
    recorded = object.__new__(Recorded)
    recorded.network, recorded.stacks_BCYX = network, torch.zeros(4, 5, 256, 256)
    recorded.logits_BCYX, recorded.graph = torch.zeros(4, 3, 256, 256), Full()  # type: ignore[assignment]
    got = machine.predict([recorded], slices, range(4), [(0, 0)])
    assert torch.allclose(got, machine.predict([network], slices, range(4), [(0, 0)]), atol=1e-6)
    assert recorded.logits_BCYX.numel() == 0
    assert machine.batch == 2


@needs_cuda
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_a_gpu_a_recorded_network_gives_its_own_logits(name: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[name]().eval().cuda().to(memory_format=torch.channels_last)
    stacks = [
        torch.randn(8, 5, 256, 256, device="cuda").contiguous(memory_format=torch.channels_last) for _ in range(3)
    ]
    recorded = Recorded(network, stacks[0], torch.float16)
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        for batch in (*stacks, stacks[0][:5]):
            expected, got = network(batch).float().softmax(1), recorded(batch).float().softmax(1)
            assert (expected - got).abs().max() < graphs.MOST_APART
