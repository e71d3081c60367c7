"""What the cascade does on a GPU, as far as it shows without one: DALI's graphs, memory that runs out, no numbers."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from kits.cascade import preprocess as module
from kits.cascade.cascade import Cascade
from kits.cascade.preprocess import SLAB_SLICES, Slices, _graph
from kits.errors import GpuMemoryError, KitsError
from kits.networks import Network
from kits.normalisation import Normalisation
from kits.runtime.devices import DeviceLost
from kits.runtime.engine import Engine
from kits.runtime.runtime import Runtime
from test.helpers.threshold import member, phantom_volume

NORM = Normalisation(58.5, 73.25)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_gpu_is_all_that_the_preprocessing_graph_lacks(axes: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="GPU DALI pipeline while CUDA is not available"):
        _graph(axes, NORM, 0)


@pytest.mark.parametrize("trouble", [torch.cuda.OutOfMemoryError("out of memory"), MemoryError("std::bad_alloc")])
def test_slabs_get_smaller_when_a_gpus_memory_runs_out(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, freed = [], []

    def resample(self: Slices, first: int, last: int) -> torch.Tensor:
        tried.append(last - first)
        if last - first > 12:
            raise trouble
        return torch.arange(first, last)[:, None, None].expand(-1, 4, 4).to("meta")

    monkeypatch.setattr(Slices, "_resample", resample)
    monkeypatch.setattr(module.torch, "from_dlpack", lambda slab: slab)
    monkeypatch.setattr(module, "free_memory", freed.append)
    slices = Slices(np.zeros((100, 4, 4), np.int16), (100, 4, 4), NORM, torch.device("meta"))
    assert slices.slab(10, 80).shape == (70, 4, 4)
    assert tried[:3] == [SLAB_SLICES, SLAB_SLICES // 2, SLAB_SLICES // 4]
    assert sum(tried[2:]) == 70
    assert freed == [torch.device("meta")] * 2


def test_memory_that_runs_out_for_a_single_slice_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def resample(self: Slices, first: int, last: int) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Slices, "_resample", resample)
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Slices(np.zeros((9, 4, 4), np.int16), (9, 4, 4), NORM, torch.device("meta")).slab()


class Answering(nn.Module):
    """Gives or raises always the same."""

    def __init__(self, answer: float | Exception) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        if isinstance(self.answer, Exception):
            raise self.answer
        return torch.full((len(x_BCYX), 3, *x_BCYX.shape[2:]), self.answer)


@pytest.mark.parametrize("stage", ["locate", "segment"])
def test_networks_that_give_no_numbers_are_an_error_and_no_empty_label_map(stage: str) -> None:
    volume, _ = phantom_volume()
    broken = member(stage, Answering(float("nan")))
    members = {"locate": member("locate"), "segment": member("segment")} | {stage: broken}
    cascade = Cascade([members["locate"]], [members["segment"]], Runtime.of(device="cpu", runner="torch"))
    with pytest.raises(KitsError, match="no number"):
        cascade.predict(volume)


@pytest.mark.parametrize(("answers", "error"), [(True, GpuMemoryError), (False, DeviceLost)])
def test_a_gpu_that_fails_in_a_case_is_told_in_a_sentence(
    answers: bool, error: type[KitsError], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = phantom_volume()
    trouble = torch.cuda.OutOfMemoryError("CUDA out of memory") if answers else RuntimeError("CUDA error: unspecified")
    cascade = Cascade([member("locate")], [member("segment", Answering(trouble))], Runtime.of("cpu", runner="torch"))
    monkeypatch.setattr("kits.runtime.devices.answers", lambda device: answers)
    monkeypatch.setattr("kits.runtime.devices.free_memory", lambda device: None)
    monkeypatch.setattr("kits.cascade.cascade.current", lambda device: nullcontext())
    monkeypatch.setattr(type(cascade), "device", torch.device("cuda:0"), raising=True)
    with pytest.raises(error) as raised:
        cascade.predict(volume)
    assert type(raised.value) is error


class Refusing:
    """Stands in for an engine on a GPU that has no room for a network."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)

    def place(self, network: nn.Module) -> Network:
        raise GpuMemoryError("The memory of cuda:0 ran out; use --device cpu.")


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that passes its trial and has no room for the networks; gives the devices that were asked for."""
    asked: list[str] = []

    def engine(device: str, *how: str) -> object:
        asked.append(device)
        return Engine(device, *how) if device == "cpu" else Refusing()

    monkeypatch.setattr("kits.cascade.cascade.Engine", engine)
    return asked


def test_a_gpu_that_has_no_room_for_the_networks_is_done_without_if_that_was_left_to_us(
    full_gpu: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cascade = Cascade([member("locate")], [member("segment")], Runtime.of("auto", runner="torch"))
    assert (full_gpu, cascade.device) == (["auto", "cpu"], torch.device("cpu"))
    assert "Networks will run on the CPU. The memory of cuda:0 ran out" in caplog.text
    volume, truth = phantom_volume()
    assert np.array_equal(cascade.predict(volume).labels, truth)


@pytest.mark.parametrize(("device", "precision"), [("cuda", "auto"), ("cuda:0", "auto"), ("auto", "fp16")])
def test_who_asked_for_a_gpu_or_a_precision_is_told_that_it_does_not_serve(
    device: str, precision: str, full_gpu: list[str]
) -> None:
    with pytest.raises(GpuMemoryError, match="memory of cuda:0 ran out"):
        Cascade([member("locate")], [member("segment")], Runtime.of(device, precision=precision))
    assert full_gpu == [device]


def test_both_stages_run_on_one_engine_which_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        cascade = Cascade([member("locate")], [member("segment")], Runtime.of("cpu", runner="torch"))
    assert cascade.locator.engine is cascade.segmenter.engine, "one engine halves its batch for both stages"
    assert [one for one in caplog.messages if "run on" in one] == [f"Networks run on {cascade.locator.engine}."]
