"""What training does on a GPU, and on two; what can be seen without one is in test/train.

python -m pytest -m gpu
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from test.train.made import SMALL, trainer
from test.train.test_workers import gradients
from train import loop
from train.loop import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: see test/gpu.md"),
]
PLAIN = replace(SMALL, dropout=False)  # devices draw other random numbers


def in_precision(run: Trainer, precision: torch.dtype) -> Trainer:
    """A run that computes in another precision, as if it had begun so."""
    run.engine.precision = precision
    run.scaler = torch.amp.GradScaler(run.engine.device.type, enabled=precision == torch.float16)
    return run


@pytest.mark.parametrize(("precision", "apart"), [(torch.float32, 1e-3), (torch.float16, 0.02)])
def test_steps_on_a_gpu_give_the_losses_of_the_cpu(precision: torch.dtype, apart: float, tmp_path: Path) -> None:
    cpu = in_precision(trainer(PLAIN, tmp_path / "cpu"), torch.float32)
    gpu = in_precision(trainer(PLAIN, tmp_path / "gpu", device="cuda"), precision)
    gpu.network.load_state_dict(cpu.network.state_dict())
    for step in range(2):
        images, labels = cpu.batch(step)
        expected = cpu.take_step(images, labels, step).item()
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # as a CPU computes
            got = gpu.take_step(images.to(gpu.engine.device), labels.to(gpu.engine.device), step).item()
        assert got == pytest.approx(expected, rel=apart * (step + 1))
    assert gpu.scaler.is_enabled() == (precision == torch.float16)
    assert all(tensor.isfinite().all() for tensor in gpu.network.parameters())


def test_a_gpu_augments_as_the_cpu_does(tmp_path: Path) -> None:
    cpu, gpu = trainer(PLAIN, tmp_path / "cpu"), trainer(PLAIN, tmp_path / "gpu", device="cuda")
    (images, labels), (images_there, labels_there) = cpu.batch(0), gpu.batch(0)
    torch.cuda.synchronize()
    assert images_there.device.type == labels_there.device.type == "cuda"
    assert images_there.shape == images.shape
    assert (labels_there.cpu() == labels).float().mean() > 0.99
    assert images_there.isfinite().all()


def test_a_gpu_varies_what_patches_show_as_the_cpu_does(tmp_path: Path) -> None:
    varied = replace(PLAIN.augmentation, washout=0.5, enhancement=1.0, masses=1.0, codec=0.5)
    config = replace(PLAIN, augmentation=varied)
    cpu, gpu = trainer(config, tmp_path / "cpu"), trainer(config, tmp_path / "gpu", device="cuda")
    for step in range(4):
        (images, labels), (images_there, labels_there) = cpu.batch(step), gpu.batch(step)
        assert (labels_there.cpu() == labels).float().mean() > 0.99
        assert (images_there.cpu() - images).abs().median() < 0.01, "but for what is rounded to another grey step"


def test_training_on_a_gpu_scales_half_precision_and_lowers_the_loss(tmp_path: Path) -> None:
    run = trainer(replace(PLAIN, schedule=replace(SMALL.schedule, learning_rate=4e-3)), tmp_path, device="cuda")
    assert run.engine.precision == torch.float16
    assert run.scaler.is_enabled()
    images, labels = run.batch(0)
    losses = [run.take_step(images, labels, step).item() for step in range(6)]
    assert min(losses[-2:]) < losses[0]
    scores = run.validate_and_keep(1)
    assert 0 <= scores["score"] <= 1


@pytest.mark.parametrize(("begun", "goes_on"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_goes_on_on_the_other_device(begun: str, goes_on: str, tmp_path: Path) -> None:
    first = trainer(PLAIN, tmp_path, device=begun)
    first.take_step(*first.batch(0), 0)
    first.progress.step = 1
    first.save_checkpoint()
    second = trainer(PLAIN, tmp_path, device=goes_on)
    assert second.progress.step == 1
    saved = first.network.state_dict()
    assert all(torch.equal(saved[name].cpu(), tensor.cpu()) for name, tensor in second.network.state_dict().items())
    assert second.take_step(*second.batch(1), 1).isfinite()
    second.save_checkpoint()
    assert trainer(PLAIN, tmp_path, device=begun).take_step(*first.batch(2), 2).isfinite()


def test_a_run_on_a_gpu_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 1)
    whole = trainer(SMALL, tmp_path / "whole", device="cuda")
    whole.fit()
    first = trainer(SMALL, tmp_path / "parts", device="cuda")
    first.steps = 3
    first.fit()
    second = trainer(SMALL, tmp_path / "parts", device="cuda")
    assert second.progress.step == 3
    second.fit()
    expected, got = (run.network.state_dict() for run in (whole, second))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("norm", ["frozen", "own"])
def test_two_gpus_with_half_the_batch_each_give_the_gradients_of_one(norm: str, tmp_path: Path) -> None:
    """By NCCL; batch norm too sees the whole batch, unlike on CPUs."""
    one, two = (gradients(tmp_path / str(n), n, norm, "cuda") for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-4 * float(a.abs().max() + 1))
