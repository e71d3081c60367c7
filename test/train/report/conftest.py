"""Fixtures of the tests of Table 2."""

from pathlib import Path

import pytest

from kits.runtime.engine import Engine
from kits.runtime.weights import Member
from test.helpers.threshold import phantom
from test.train.report.made import KITS_AXES, SMALL, rough, trio, write_case
from train.report import evaluate as module


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[Member], list[Member]]]:
    """Weights folders by name, in memory, whose networks run as they are, without being compiled."""
    folders = {"weights": trio()}
    monkeypatch.setattr(Engine, "place", lambda self, network: network)
    monkeypatch.setattr(module, "load_members", lambda folder: folders[folder.name])
    return folders


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three cases: one stored as KiTS stores its own, one in canonical orientation, and one without a tumour."""
    hu, labels = phantom(**SMALL)
    write_case(tmp_path / "data", 1, hu, rough(labels), KITS_AXES)
    write_case(tmp_path / "data", 2, hu, labels)
    healthy, kidneys = phantom(**SMALL | {"tumour_mm": 0})
    write_case(tmp_path / "data", 3, healthy, kidneys)
    return tmp_path / "data"
