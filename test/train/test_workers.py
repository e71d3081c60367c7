"""Several processes: the gradients are those of one."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser

from kits.errors import InputError
from kits.runtime.weights import load_member
from test.train.made import DATA, SMALL, kits_folder, trainer
from train import workers
from train.__main__ import add_fit, main
from train.config import Data, Source
from train.data.cache import prepare
from train.fit import Fit, fit_network
from train.loop import Trainer
from train.recipe import recipe_of, run

ROOT = Path(__file__).parents[2]
DDP = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from test.train.made import SMALL, trainer
from train import workers
config = replace(SMALL, architecture=sys.argv[2], dropout=False, schedule=replace(SMALL.schedule, batch=4, clip=0.0))
with workers.workers(sys.argv[4]):
    run = trainer(config, Path(sys.argv[1]) / f"rank{workers.rank()}", device=sys.argv[4])
    run.engine.precision = torch.float32  # half precision's rounding would hide what is compared
    run.scaler = torch.amp.GradScaler("cpu", enabled=False)
    for module in run.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    if sys.argv[3] == "frozen":
        from train import loop
        loop.set_modes = lambda network, dropout: network.eval()
    run.take_step(*run.batch(0), 0)
    if workers.rank() == 0:
        torch.save([p.grad.cpu() for p in run.network.parameters()], Path(sys.argv[1]) / "gradients.pt")
"""


def gradients(folder: Path, processes: int, norm: str, device: str = "cpu") -> list[torch.Tensor]:
    """Of one step over the same batch, shared by some processes; ``norm`` is batch norm's: frozen, or its own."""
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(DDP)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(script), str(folder), "res-unet", norm, device]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
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


def test_readmes_torchrun_line_trains_on_two_processes(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = (line.strip() for line in readme.splitlines() if line.strip().startswith("torchrun "))
    kits_folder(tmp_path / "kits", 2)
    (tmp_path / "quick.toml").write_text(
        "[data]\nvalid = ['kits-00001']\n[training]\npatch = 64\n"
        "[training.schedule]\nepochs = 1\nepoch_steps = 2\nbatch = 2\n"
    )
    quick = ["--config", str(tmp_path / "quick.toml"), "--device", "cpu"]
    places = {"KITS19_DATA": tmp_path / "kits", "CACHE": tmp_path / "cache", "RUN": tmp_path / "run", "4": 2}
    words = [str(places.get(word, word)) for word in shlex.split(line)]
    assert (
        main(["prepare", "--data", words[words.index("--data") + 1], "--cache", str(tmp_path / "cache"), *quick[:2]])
        == 0
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PET_STANDALONE": "1"}
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:], *quick]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert load_member(tmp_path / "run" / "weights.safetensors").info.architecture == "res-unet"
    assert done.stderr.count("epoch 1 of 1, loss") == 1, "one process tells"
    assert (tmp_path / "run" / "config.toml").exists()


def test_no_option_of_fit_begins_one_of_torchruns() -> None:
    own = argparse.ArgumentParser()
    add_fit(own)
    theirs = get_args_parser()._option_string_actions
    for option in own._option_string_actions:
        if option not in ("-h", "--help"):
            assert not [name for name in theirs if name.startswith(option)], option


def test_only_the_first_process_writes_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 2)),), valid=("kits-00001",))
    prepare(data, tmp_path / "cache")
    monkeypatch.setattr(Trainer, "fit", lambda self: self.folder)
    for rank in (1, 0):
        monkeypatch.setattr(workers, "rank", lambda rank=rank: rank)
        fit_network(Fit(SMALL, data, tmp_path / "cache", tmp_path / f"run{rank}", "cpu"))
    assert (tmp_path / "run0" / "config.toml").exists()
    assert not (tmp_path / "run1" / "config.toml").exists()


def test_a_recipe_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "launched", lambda: True)
    with pytest.raises(InputError, match="a recipe runs in one process"):
        run(recipe_of("paper", {}, DATA), tmp_path)


def test_a_batch_that_processes_cannot_share_evenly_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "count", lambda: 3)
    with pytest.raises(InputError, match="batch of 2 is not shared evenly by 3"):
        trainer(SMALL, tmp_path)
