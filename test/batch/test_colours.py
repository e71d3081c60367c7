"""Label colours: told apart by the colour-blind, and in the forms of ITK-SNAP and 3D Slicer."""

import itertools
import re

import numpy as np
import pytest

from kits.batch.colours import COLOURS, NAMES, REFERENCE_COLOURS, itksnap_text, slicer_text, write_tables

# Viénot, Brettel and Mollon (1999): what linear RGB becomes without long or middle wavelength cones.
DEFICIENCIES = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_stay_apart_for_the_colour_blind(deficiency):
    linear = [(np.array(colour) / 255) ** 2.2 for colour in (*COLOURS.values(), *REFERENCE_COLOURS.values())]
    seen = [255 * np.clip(np.array(DEFICIENCIES[deficiency]) @ one, 0, 1) ** (1 / 2.2) for one in linear]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 60


def test_itksnap_gets_eight_fields_a_label():
    lines = [line for line in itksnap_text().splitlines() if not line.startswith("#")]
    assert lines[0] == '0 0 0 0 0 0 0 "background"'
    for line, (label, (red, green, blue)) in zip(lines[1:], COLOURS.items(), strict=True):
        assert re.fullmatch(rf'{label} {red} {green} {blue} 1 1 1 "{NAMES[label]}"', line)


def test_slicer_gets_six_fields_a_label():
    lines = [line.split() for line in slicer_text().splitlines() if not line.startswith("#")]
    assert all(len(line) == 6 for line in lines)
    assert lines[0][:2] == ["0", "background"]
    assert [(int(line[0]), line[1], tuple(map(int, line[2:5]))) for line in lines[1:]] == [
        (label, NAMES[label], colour) for label, colour in COLOURS.items()
    ]


def test_tables_are_written_once_a_folder(tmp_path):
    paths = write_tables(tmp_path / "out")
    assert sorted(path.name for path in paths) == ["labels.ctbl", "labels.itksnap.txt"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
