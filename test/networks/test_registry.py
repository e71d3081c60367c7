"""Networks register themselves: a file in the folder is all that a new one needs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kits.networks
from kits.choices import Mode
from kits.networks import ARCHITECTURES, ResNet, WideUNet, register

NEW = """
from torch import nn
from kits.choices import Mode
from kits.networks.registry import register

@register("tiny", title="Tiny", mode=Mode.PAPER)
class Tiny(nn.Module):
    pass
"""


def test_each_architecture_says_what_it_is_and_makes_networks() -> None:
    assert {name: (one.title, one.mode) for name, one in ARCHITECTURES.items()} == {
        "res-net": ("Res-Net", Mode.PAPER),
        "res-unet": ("Res-UNet", Mode.PAPER),
        "wide-unet": ("Wide-UNet", Mode.NATIVE),
    }
    assert all(one.name == name for name, one in ARCHITECTURES.items())
    assert isinstance(ARCHITECTURES["res-net"](), ResNet)
    assert isinstance(ARCHITECTURES["wide-unet"](), WideUNet)


def test_a_module_in_the_folder_is_found_by_itself(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(NEW)
    code = (
        "import pkgutil, kits; iterate = pkgutil.iter_modules\n"
        f"pkgutil.iter_modules = lambda path, prefix: iterate([*path, {str(tmp_path)!r}], prefix)\n"
        "import importlib.machinery, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        found = [{str(tmp_path)!r}] if name == 'kits.networks.tiny' else None\n"
        "        return found and importlib.machinery.PathFinder.find_spec(name, found)\n"
        "sys.meta_path.append(Finder())\n"
        "from kits.networks import ARCHITECTURES; print(ARCHITECTURES['tiny'].title)"
    )
    root = Path(kits.networks.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "Tiny"


def test_two_networks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two networks are called 'res-net'"):
        register("res-net", title="Another", mode=Mode.PAPER)(nn.Identity)
    assert ARCHITECTURES["res-net"].module is ResNet


def test_a_network_that_knows_no_cysts_is_not_made_with_them() -> None:
    stacks = torch.zeros(1, 5, 32, 32)
    assert ARCHITECTURES["wide-unet"](4).eval()(stacks).shape == (1, 4, 32, 32)
    for name, classes in (("res-unet", 4), ("res-net", 2), ("wide-unet", 5)):
        with pytest.raises(ValueError, match=f"not {classes}"):
            ARCHITECTURES[name](classes)
