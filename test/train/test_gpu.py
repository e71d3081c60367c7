"""What training does on a GPU, as far as it can be seen without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nvidia.dali import fn, pipeline_def, types

from kits.cascade import preprocess
from kits.errors import InputError
from kits.normalisation import Normalisation
from test.train.made import SMALL, trainer
from train import workers
from train.data.augment import warp_graph

NO_CUDA = "CUDA is not available"


def complaint(build: Callable[[], Any]) -> str:
    """What DALI says of a graph that is to run on the first GPU; nothing, where there is one."""
    try:
        build().build()
    except (RuntimeError, ValueError, TypeError) as error:
        return str(error)
    return NO_CUDA


@pytest.mark.parametrize(
    "build",
    [
        lambda: warp_graph(2, 64, 0, threads=2),
        lambda: preprocess._graph((), Normalisation(0.0, 1.0), 0),
        lambda: preprocess._graph((0,), Normalisation(0.0, 1.0), 0),
        lambda: preprocess._graph((0, 1, 2), Normalisation(0.0, 1.0), 0),
    ],
    ids=["patches", "no axis", "slices", "all axes"],
)
def test_every_dali_graph_is_one_for_gpus_too(build: Callable[[], Any]) -> None:
    assert NO_CUDA in complaint(build)


def test_a_graph_that_names_an_input_on_the_gpu_would_be_noticed() -> None:
    @pipeline_def(batch_size=1, num_threads=1, device_id=0)
    def graph() -> Any:
        image, matrix = (fn.external_source(name=n, dtype=types.FLOAT, ndim=3).gpu() for n in ("image", "matrix"))
        return fn.warp_affine(image, matrix=matrix, size=(4, 4))

    assert "must be on CPU" in complaint(graph)


def test_a_checkpoint_of_a_cpu_goes_on_with_a_gpus_scaler_and_the_reverse(tmp_path: Path) -> None:
    run = trainer(SMALL, tmp_path)
    assert run.scaler.state_dict() == {}, "on a CPU nothing is scaled"
    run.progress.step = 3
    run.save_checkpoint()
    gpu = trainer(SMALL, tmp_path / "other")
    gpu.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=512.0)
    gpu.folder = tmp_path
    gpu.resume()
    assert gpu.progress.step == 3
    assert gpu.scaler.get_scale() == 512.0
    gpu.save_checkpoint()
    run.progress.step = 0
    run.resume()
    assert run.progress.step == 3


def test_what_resumes_to_the_bit_takes_deterministic_kernels(tmp_path: Path) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    trainer(SMALL, tmp_path)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with two GPUs on which torchrun started this process; what it asks of torch."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: asked.update(device=number))
    monkeypatch.setattr(workers.dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(workers.dist, "init_process_group", lambda backend, **more: asked.update(backend=backend))
    monkeypatch.setattr(workers.dist, "is_initialized", lambda: "backend" in asked)
    monkeypatch.setattr(workers.dist, "destroy_process_group", asked.clear)
    monkeypatch.setenv("LOCAL_RANK", "1")
    return asked


def test_each_process_takes_its_own_gpu(launched: dict[str, Any]) -> None:
    with workers.workers("auto"):
        assert launched == {"backend": "nccl", "device": 1}
        assert workers.device("auto") == workers.device("cuda") == "cuda:1"


def test_processes_on_the_cpu_talk_by_gloo_on_a_machine_with_gpus_too(launched: dict[str, Any]) -> None:
    with workers.workers("cpu"):
        assert launched == {"backend": "gloo"}
        assert workers.device("cpu") == "cpu"


def test_more_processes_than_gpus_are_refused_in_words(
    launched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="2 GPUs and more processes"), workers.workers("cuda"):
        pass


def test_a_step_whose_gradients_overflow_is_left_out_and_the_next_is_scaled_less(tmp_path: Path) -> None:
    run = trainer(SMALL, tmp_path)
    run.engine.precision = torch.float16
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=1000)
    before = {name: tensor.clone() for name, tensor in run.network.named_parameters()}
    value = run.take_step(*run.batch(0), 0)
    assert value.isfinite()
    assert run.scaler.get_scale() == 2.0**59
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.named_parameters())
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    run.take_step(*run.batch(1), 1)
    assert run.scaler.get_scale() == 2.0**4
    assert not all(torch.equal(before[name], tensor) for name, tensor in run.network.named_parameters())
    assert all(tensor.isfinite().all() for tensor in run.network.parameters())
