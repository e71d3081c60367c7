"""The package: what a wheel holds, that it works outside the checkout, and that the lists of requirements agree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, Requirement]:
    """What a requirements file names by itself."""
    lines = (ROOT / name).read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {canonicalize_name(one.name): one for one in wanted}


def wanted(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml names: the dependencies, or those of some extras without the package itself."""
    lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    found = [Requirement(line) for line in (lines if extras else PROJECT["dependencies"])]
    return {canonicalize_name(one.name): one for one in found if one.name != PROJECT["name"]}


@pytest.mark.parametrize(
    ("file", "extras"),
    [("requirements.txt", ())]
    + [(f"requirements-{extra}.txt", (extra,)) for extra in ("cohort", "dev", "report", "train")],
)
def test_requirements_files_pin_what_pyproject_names_within_its_ranges(file: str, extras: tuple[str, ...]) -> None:
    pinned, ranges = pins(file), wanted(*extras)
    assert set(pinned) == set(ranges)
    for name, pin in pinned.items():
        (version,) = (one.version for one in pin.specifier)
        assert str(pin.specifier) == f"=={version}", pin
        assert ranges[name].specifier.contains(version, prereleases=True), (pin, ranges[name])
        assert str(pin.marker) == str(ranges[name].marker)


def test_every_package_that_kits_imports_is_a_dependency() -> None:
    """What an extra brings may be imported inside functions only."""
    tops = set()
    for path in (ROOT / "kits").rglob("*.py"):
        tops |= set(re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
    distribution = {"PIL": "pillow", "cc3d": "connected-components-3d", "nvidia": "nvidia-dali-cuda130"}
    third = {distribution.get(top, top) for top in tops - sys.stdlib_module_names - {"kits"}}
    assert {canonicalize_name(name) for name in third} <= set(wanted())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a wheel of the checkout was installed into, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("kits_cascade-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder


def python(installed: Path, code: str) -> str:
    """What a program prints that runs outside the checkout with the installed package."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KITS_")} | {
        "PYTHONPATH": str(installed / "site")
    }
    run = subprocess.run([sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_wheel_holds_kits_with_weights_and_training_and_nothing_else(installed: Path) -> None:
    names = zipfile.ZipFile(next(installed.glob("*.whl"))).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"kits", "kits_cascade"}
    assert {"kits/py.typed", "kits/weights/SHA256SUMS", "kits/train/__main__.py"} <= set(names)
    shipped = {path.name for path in (ROOT / "weights").glob("*.safetensors")}
    assert {Path(name).name for name in names if name.endswith(".safetensors")} == shipped
    assert not any("__pycache__" in name for name in names)


def test_the_version_is_one(installed: Path) -> None:
    (wheel,) = installed.glob("*.whl")
    told = python(installed, "import kits; print(kits.__version__, kits.__file__)").split()
    assert wheel.name.startswith(f"kits_cascade-{told[0]}-")
    assert Path(told[1]).is_relative_to(installed / "site")


def test_importing_kits_imports_nothing_heavy(installed: Path) -> None:
    assert python(installed, "import sys, kits, kits.score.metrics; print('torch' in sys.modules)") == "False"
