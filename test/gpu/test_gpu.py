"""What only a GPU can show; test/gpu.md says how to run it. Everything that can be emulated is tested elsewhere.

python -m pytest -m gpu
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.common import write_scan
from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Cascade
from kits.cascade.preprocess import Slices
from kits.io.cases import find_cases
from kits.io.images import read_image
from kits.io.volume import Volume
from kits.networks import ARCHITECTURES
from kits.normalisation import Normalisation
from kits.runtime.devices import answers, choose_device, explained, free_memory
from kits.runtime.engine import Engine
from kits.runtime.placed import MOST_APART, Placed, probe
from kits.runtime.precision import PRECISIONS
from kits.runtime.runtime import Runtime
from kits.runtime.stacks import stack_slices
from kits.runtime.weights import Member, load_members
from test.helpers.threshold import dice, phantom_volume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: see test/gpu.md"),
]
WEIGHTS = Path(__file__).parent.parent.parent / "weights"
NORM = Normalisation(58.5, 73.25)
WINDOWS = [(0, 0), (20, 44)]


@pytest.fixture(scope="module")
def device() -> torch.device:
    return choose_device("cuda")


@pytest.fixture(scope="module")
def members() -> list[Member]:
    """The networks that are shipped, of both stages."""
    return [member for stage in load_members(WEIGHTS) for member in stage]


@pytest.fixture(scope="module")
def slices() -> torch.Tensor:
    """Something like an abdomen, 40 slices wider than a window."""
    volume, _ = phantom_volume(shape=(40, 300, 300))
    return torch.from_numpy((np.clip(volume.hu, -79, 304) - 101) / 77).float()


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Whatever waits for the GPU inside is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_shipped_network_gives_what_the_cpu_gives_in_single_precision(
    precision: str, members: list[Member], slices: torch.Tensor, device: torch.device
) -> None:
    cpu, gpu = Engine("cpu", "torch", "fp32"), Engine(device, "torch", precision)
    limit = 1e-3 if precision == "fp32" else MOST_APART
    for member in members:
        expected = cpu.predict([member.network], slices, range(0, 40, 7), WINDOWS, 1.4)
        got = gpu.predict([gpu.place(member.network)], slices.to(device), range(0, 40, 7), WINDOWS, 1.4).cpu()
        assert (got - expected).abs().mean() < limit, member.name
        assert (got.argmax(1) == expected.argmax(1)).float().mean() > (0.9999 if precision == "fp32" else 0.99)


def test_single_precision_is_not_tf32(device: torch.device) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(5, 64, 3, padding=1).eval().requires_grad_(False)
    stacks = probe(2)
    with torch.inference_mode():
        expected = network.double()(stacks.double())
        got = Placed(network.float(), device, torch.float32)(stacks.to(device)).cpu()
    assert (got - expected).abs().max() < 1e-4, "TF32 rounds to 10 bits: about 1e-3 here"


@pytest.mark.parametrize("step", [1.0, 0.6, 3.0])
def test_a_prediction_waits_for_nothing(
    step: float, members: list[Member], slices: torch.Tensor, device: torch.device
) -> None:
    machine = Engine(device)
    networks = [machine.place(members[0].network)]
    slices = slices.to(device)
    for centres in (range(5, 38), [1, 2, 30]):
        machine.predict(networks, slices, centres, WINDOWS, step)  # libraries set themselves up
        torch.cuda.synchronize()
        with nothing_waits():
            machine.predict(networks, slices, centres, WINDOWS, step)


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_a_case_waits_for_nothing_but_what_arrives(mode: str, device: torch.device, tmp_path: Path) -> None:
    """Of waiting for events, as ``arriving`` does, torch does not complain."""
    write_scan(tmp_path / "scan.nii.gz", 60, 2.0)
    volume = Volume.from_image(read_image(tmp_path / "scan.nii.gz"), "scan")
    cascade = Cascade.load(WEIGHTS, Runtime.of(str(device), mode))
    assert cascade.predict(volume).regions, "there is nothing to wait for"  # libraries set themselves up
    torch.cuda.synchronize()
    with nothing_waits():
        cascade.predict(volume)


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_cases_under_way_together_get_the_labels_that_each_gets_alone(
    mode: str, device: torch.device, tmp_path: Path
) -> None:
    for number in range(5):
        write_scan(tmp_path / "in" / f"scan_{number}.nii.gz", 40 + 8 * number, 3.0)
    cases, cascade = find_cases(tmp_path / "in"), Cascade.load(WEIGHTS, Runtime.of(str(device), mode))
    runs = [run(cases, cascade, Outputs(tmp_path / str(n)), in_flight=n) for n in (1, 3)]
    assert [report.status for reports in runs for report in reports] == ["done"] * 10
    assert [report.sha256 for report in runs[0]] == [report.sha256 for report in runs[1]]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recorded_network_gives_its_own_numbers(name: str, precision: str, device: torch.device) -> None:
    torch.manual_seed(0)
    placed = Placed(ARCHITECTURES[name]().eval().requires_grad_(False), device, PRECISIONS[precision])
    with torch.inference_mode():
        placed.record(8)
        assert placed.graph, "its kernels could not be recorded"
        for seed in range(3):
            stacks = (probe(8) + seed).to(device)
            replayed = placed(stacks).float().softmax(1).clone()
            graph, placed.graph = placed.graph, None
            assert (replayed - placed(stacks).float().softmax(1)).abs().max() < 0.01
            placed.graph = graph


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_stacks_are_those_of_the_cpu(step: float, slices: torch.Tensor, device: torch.device) -> None:
    centres = torch.tensor([0, 3, 39])
    got = stack_slices(slices.to(device), centres.to(device), step).cpu()
    assert torch.allclose(got, stack_slices(slices, centres, step), atol=1e-6)


@pytest.mark.parametrize("shape", [(130, 60, 70), (44, 60, 70), (44, 30, 35), (130, 81, 55)])
def test_preprocessing_gives_what_the_cpu_gives(shape: tuple[int, int, int], device: torch.device) -> None:
    hu = np.random.default_rng(0).integers(-1024, 1500, (130, 60, 70)).astype(np.int16)
    expected = Slices(hu, shape, NORM, torch.device("cpu")).slab()
    for _ in range(5):  # runs follow each other without waiting: none may see another's memory
        got = Slices(hu, shape, NORM, device).slab()
        assert (got.cpu() - expected).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_the_cascade_finds_what_the_cpu_finds(mode: str, device: torch.device, tmp_path: Path) -> None:
    write_scan(tmp_path / "scan.nii.gz", 60, 3.0)
    volume = Volume.from_image(read_image(tmp_path / "scan.nii.gz"), "scan")
    cpu = Cascade.load(WEIGHTS, Runtime.of("cpu", mode, "torch", "fp32")).predict(volume)
    gpu = Cascade.load(WEIGHTS, Runtime.of(str(device), mode)).predict(volume)
    assert (cpu.labels > 0).any(), "there is nothing to compare"
    assert dice(gpu.labels > 0, cpu.labels > 0) > 0.995


def test_with_little_memory_batches_get_smaller_and_the_numbers_stay(
    members: list[Member], slices: torch.Tensor, device: torch.device
) -> None:
    machine = Engine(device, "torch", "fp32")
    networks = [machine.place(members[0].network)]
    slices = slices.to(device)
    expected = machine.predict(networks, slices, range(40), WINDOWS).cpu()
    networks[0].forget()  # type: ignore[attr-defined]
    free_memory(device)
    held = torch.cuda.memory_reserved(device)
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction((held + 300 * 2**20) / total, device)
    try:
        got = machine.predict(networks, slices, range(40), WINDOWS).cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert machine.batch < 32
    assert torch.allclose(got, expected, atol=1e-3)


def test_memory_that_runs_out_is_a_sentence_and_the_gpu_goes_on(device: torch.device) -> None:
    from kits.errors import KitsError

    with pytest.raises(KitsError, match="memory of cuda:0 ran out"), explained(device):
        torch.empty(2**50, dtype=torch.uint8, device=device)
    assert answers(device)
