"""Several processes: the gradients are those of one."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from train import workers

DDP = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from test.train.made import SMALL, trainer
from train import workers
config = replace(SMALL, architecture=sys.argv[2], dropout=False, schedule=replace(SMALL.schedule, batch=4, clip=0.0))
with workers.workers():
    run = trainer(config, Path(sys.argv[1]) / f"rank{workers.rank()}")
    run.engine.precision = torch.float32  # bf16's rounding would hide what is compared
    for module in run.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    if sys.argv[3] == "frozen":
        from train import loop
        loop.set_modes = lambda network, dropout: network.eval()
    run.take_step(*run.batch(0), 0)
    if workers.rank() == 0:
        torch.save([p.grad for p in run.network.parameters()], Path(sys.argv[1]) / "gradients.pt")
"""


def gradients(folder: Path, processes: int, norm: str) -> list[torch.Tensor]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(DDP)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(script), str(folder), "res-unet", norm]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return torch.load(folder / "gradients.pt", weights_only=True)


def test_two_processes_with_half_the_batch_each_give_one_process_gradients(tmp_path: Path) -> None:
    one, two = (gradients(tmp_path / str(n), n, "frozen") for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(a.abs().max() + 1))


def test_on_cpus_batch_norm_sees_only_its_own_process_part(tmp_path: Path) -> None:
    one, two = (gradients(tmp_path / str(n), n, "own") for n in (1, 2))
    assert not all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(one, two, strict=True))
    assert workers.count() == 1
