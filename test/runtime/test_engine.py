"""Slices through networks: batches, windows, ensembles, precision."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kits.errors import KitsError
from kits.geometry import cover
from kits.networks import ResNet, ResUNet
from kits.runtime import engine
from kits.runtime import precision as precision_module
from kits.runtime.engine import Engine, choose_engine
from kits.runtime.precision import precisions
from kits.runtime.stacks import stack_slices
from test.helpers.threshold import Threshold
from test.helpers.waiting import NothingWaits

needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="OpenVINO is not installed")


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[None, :, None, None].expand(len(x), 3, *x.shape[2:])


@pytest.mark.parametrize(("low", "high", "limit"), [(0, 256, 256), (0, 398, 398), (10, 500, 512), (300, 310, 400)])
def test_windows_cover_what_they_should_and_stay_inside(low: int, high: int, limit: int) -> None:
    starts = cover(low, high, limit)
    covered = {p for start in starts for p in range(start, start + 256)}
    assert set(range(low, high)) <= covered <= set(range(limit))


def test_slices_narrower_than_a_window_start_at_their_edge() -> None:
    assert cover(0, 100, 100) == [0]


def test_batches_give_what_one_slice_at_a_time_gives() -> None:
    torch.manual_seed(0)
    networks = [ResUNet().eval(), ResNet().eval()]
    slices = torch.randn(6, 256, 256)
    machine = Engine("cpu")
    machine.batch = 4
    together = machine.predict(networks, slices, range(6), [(0, 0)])
    with torch.inference_mode():
        stacks = stack_slices(slices, torch.arange(6))
        alone = torch.stack(
            [(networks[0](s[None]).softmax(1) + networks[1](s[None]).softmax(1))[0] / 2 for s in stacks]
        )
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_ensemble_is_the_mean_of_the_softmax_not_of_the_logits() -> None:
    members = [Constant(0.0, 4.0, 0.0), Constant(1.0, 0.0, 0.0)]
    got = Engine("cpu").predict(members, torch.zeros(1, 256, 256), [0], [(0, 0)])[0, :, 0, 0]
    expected = torch.stack([m.logits.softmax(0) for m in members]).mean(0)
    assert torch.allclose(got, expected)


def test_overlapping_windows_are_averaged_and_outside_is_background() -> None:
    torch.manual_seed(1)
    network = nn.Conv2d(5, 3, 1)
    slices = torch.randn(2, 256, 500)
    got = Engine("cpu").predict([network], slices, [0, 1], [(0, 0), (0, 100)])
    assert torch.allclose(got.sum(1), torch.ones(2, 256, 500), atol=1e-5)
    assert torch.equal(got[:, 0, :, 356:], torch.ones(2, 256, 144))
    once = Engine("cpu").predict([network], slices, [0, 1], [(0, 0)])
    assert torch.allclose(got[..., 100:256], once[..., 100:256], atol=1e-5)


def test_where_windows_overlap_the_nearer_middle_decides() -> None:
    class EdgeBlind(nn.Module):
        """Sees kidney everywhere but within 100 px of the window's left edge."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 3, *x.shape[2:])
            logits[:, 1], logits[:, 0, :, :100] = 9.0, 18.0
            return logits

    got = Engine("cpu").predict([EdgeBlind()], torch.zeros(1, 256, 400), [0], [(0, 0), (0, 144)])[0, :, 128]
    assert (got.argmax(0)[100:200] == 1).all()


def test_each_wanted_slice_is_seen_once() -> None:
    network = Threshold()
    Engine("cpu").predict([network], torch.zeros(30, 256, 256), range(7, 20), [(0, 0)])
    assert network.seen == 13


@pytest.mark.parametrize(
    "trouble",
    [
        torch.cuda.OutOfMemoryError("too much"),
        RuntimeError("CUDA error: out of memory\nCompile with ..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "CUDA", "cuDNN"],
)
def test_running_out_of_memory_halves_the_batch_and_goes_on(trouble: Exception) -> None:
    class Hungry(Threshold):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise trouble
            return super().forward(x)

    machine = Engine("cpu")
    machine.batch = 8
    slices = torch.from_numpy(np.random.default_rng(0).normal(1, 2, (9, 256, 256)).astype(np.float32))
    assert torch.equal(
        machine.predict([Hungry()], slices, range(9), [(0, 0)]),
        Engine("cpu").predict([Threshold()], slices, range(9), [(0, 0)]),
    )
    assert machine.batch == 2


def test_what_is_not_for_want_of_memory_is_not_tried_with_less() -> None:
    class Broken(Threshold):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            super().forward(x)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    network, machine = Broken(), Engine("cpu")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        machine.predict([network], torch.zeros(4, 256, 256), range(4), [(0, 0)])
    assert (network.seen, machine.batch) == (4, 4)


@pytest.mark.parametrize(
    ("vendor", "flags", "precision"),
    [
        ("AuthenticAMD", "avx2 avx512f", torch.float32),
        ("AuthenticAMD", "avx512f avx512_bf16", torch.bfloat16),
        ("GenuineIntel", "avx512f avx512_bf16", torch.float32),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", torch.bfloat16),
    ],
)
def test_the_precision_follows_from_the_cpu_alone(
    vendor: str, flags: str, precision: torch.dtype, tmp_path, monkeypatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"vendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(precision_module, "CPUINFO", cpuinfo)
    assert precisions(torch.device("cpu")) == (precision,)
    monkeypatch.setattr(precision_module, "CPUINFO", tmp_path / "none")
    assert precisions(torch.device("cpu")) == (torch.float32,)


@pytest.mark.parametrize(
    ("fastest", "asked", "taken"),
    [
        (torch.bfloat16, "auto", "bf16"),
        (torch.bfloat16, "fp32", "fp32"),
        (torch.float32, "auto", "fp32"),
        (torch.float16, "auto", "fp16"),
    ],
)
def test_the_fastest_precision_is_taken_where_none_is_asked_for(
    fastest: torch.dtype, asked: str, taken: str, monkeypatch
) -> None:
    monkeypatch.setattr(engine, "precisions", lambda device: (fastest,))
    assert Engine("cpu", "torch", asked).precision_name == taken


def test_a_precision_that_is_asked_for_is_taken_and_an_unknown_one_refused() -> None:
    assert Engine("cpu", precision="bf16").precision == torch.bfloat16
    assert Engine("cpu", precision="fp32").precision_name == "fp32"
    with pytest.raises(ValueError, match="'int8' is not a valid Precision"):
        Engine("cpu", precision="int8")


@needs_openvino
@pytest.mark.parametrize("architecture", [ResUNet, ResNet])
@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_gives_what_torch_gives(architecture: type[nn.Module], batch: int) -> None:
    torch.manual_seed(0)
    network, slices = architecture().eval(), torch.randn(4, 256, 300)
    for module in network.modules():  # statistics as after training: not those that batch norm starts from
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    got = []
    for name in ("torch", "openvino"):
        machine = Engine("cpu", name, "fp32")
        machine.batch = batch
        networks = [machine.place(network)]
        got.append(machine.predict(networks, slices, [0, 2, 3], [(0, 0), (0, 44)]))
    assert torch.allclose(*got, atol=1e-5)


@needs_openvino
def test_two_networks_compiled_by_openvino_keep_their_answers_apart() -> None:
    members = [Constant(0.0, 4.0, 0.0), Constant(1.0, 0.0, 0.0)]
    machine = Engine("cpu", "openvino")
    got = machine.predict([machine.place(member) for member in members], torch.zeros(1, 256, 256), [0], [(0, 0)])
    expected = torch.stack([member.logits.softmax(0) for member in members]).mean(0)
    assert torch.allclose(got[0, :, 0, 0], expected, atol=1e-6)


@needs_openvino
def test_openvino_reports_nothing_home() -> None:
    Engine("cpu", "openvino").place(Constant(0.0, 0.0, 0.0))
    assert sys.modules["openvino_telemetry"] is None


def test_without_openvino_torch_runs_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", torch.device("cpu")) == "torch"
    with pytest.raises(KitsError, match="pip install openvino"):
        choose_engine("openvino", torch.device("cpu"))


def test_on_a_gpu_torch_runs_the_networks() -> None:
    assert choose_engine("auto", torch.device("cuda")) == "torch"
    with pytest.raises(KitsError, match="--device cpu"):
        choose_engine("openvino", torch.device("cuda"))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="'onnx'"):
        Engine("cpu", "onnx")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_a_gpu_that_is_not_there_says_what_to_do(device: str) -> None:
    with pytest.raises(KitsError, match="--device cpu"):
        Engine(device)


@pytest.mark.parametrize("slices", [1, 6, 9])
def test_windows_that_share_batches_give_what_each_gives_alone(slices: int) -> None:
    torch.manual_seed(0)
    network, volume = ResUNet().eval(), torch.randn(slices, 256, 600)
    machine = Engine("cpu")
    windows = [(0, 0), (0, 344)]
    together = machine.predict([network], volume, range(slices), windows)
    for top, left in windows:
        alone = machine.predict([network], volume, range(slices), [(top, left)])
        assert torch.allclose(alone[..., left : left + 256], together[..., left : left + 256], atol=1e-6)


def test_batches_that_are_filled_up_give_what_batches_as_they_come_give() -> None:
    torch.manual_seed(0)
    network, volume = ResUNet().eval(), torch.randn(9, 256, 300)
    machine, seen = Engine("cpu"), []
    arguments = volume, [0, 3, 7], [(0, 0), (0, 44)], 1.4
    expected = machine.predict([network], *arguments)
    machine.whole_batches = True
    got = machine.predict([lambda stacks: seen.append(tuple(stacks.shape)) or network(stacks)], *arguments)
    assert torch.allclose(got, expected, atol=1e-6)
    assert seen == [(4, 5, 256, 256)] * 2


@pytest.mark.parametrize("step", [1.0, 3.0, 0.6, 2.4])
def test_a_prediction_is_queued_without_waiting_for_the_device(step: float) -> None:
    machine = Engine(torch.device("meta"), "torch", "fp32")
    network = ResUNet().eval().to("meta")
    with NothingWaits():
        got = machine.predict([network], torch.empty(9, 256, 300, device="meta"), range(2, 8), [(0, 0), (0, 44)], step)
    assert (got.shape, got.device.type) == ((6, 3, 256, 300), "meta")
