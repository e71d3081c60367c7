"""Which tissue each structure of a body's map is, and how bright tissues are in each contrast phase."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from train.simulate.phases import Phase
from train.simulate.sources import Body


@dataclass(frozen=True)
class Look:
    """How a tissue looks: mean HU, and the HU by which it varies over some 12 mm and over some 3 mm."""

    hu: float
    patches: float = 2.0
    texture: float = 2.0


PATTERNS = {
    # The first pattern that a structure's name holds decides. Names: ICRP 110 and TotalSegmentator.
    "kidney": r"kidney",
    "bone": r"cortical|spongiosa|medullary cavity|vertebrae|rib_|hip_|sacrum|sternum|femur|humer|scapula|clavic|skull"
    r"|teeth",
    "lung": r"^lung",
    "gas": r"^air |trachea|bronchi|nasal",
    "liver": r"liver",
    "spleen": r"^spleen",
    "pancreas": r"pancrea",
    "artery": r"aorta|artery|heart|atrial|trunk_|brachiocephalic_trunk",
    "portal": r"portal",
    "vein": r"vena|vein|blood vessels",
    "stomach": r"stomach|o?esophagus",
    "bowel": r"duodenum|small.(bowel|intestine)",
    "colon": r"colon|rectum",
    "urine": r"bladder",
    "fat": r"residual|adipose",
    "skin": r"^skin",
    "cartilage": r"cartilage",
    "muscle": r"muscle|autochthon|psoas|glut|tongue",
    "gland": r"",
}
ARMS = r"humer|ulnae|wrist|, arms"
AIR = 0
TISSUES = ("air", *PATTERNS)
NUMBER = {name: number for number, name in enumerate(TISSUES)}

# phase: liver, spleen, pancreas (Kim et al., Radiology 2004, and usual protocols; spread 12 %)
PARENCHYMA_HU = {
    "unenhanced": (55, 48, 40),
    "corticomedullary": (78, 125, 98),
    "nephrographic": (106, 118, 86),
    "excretory": (92, 98, 72),
}


def tissues_of(body: Body, arms: bool) -> np.ndarray:
    """A body's map with the number of each voxel's tissue, uint8 (z, y, x); 0 is air, or nothing that is named.

    Args:
        arms: whether they lie beside the body; mostly patients hold them up, out of view.
    """
    table = np.zeros(256, np.uint8)
    for number, name in body.names.items():
        plain = re.split(r"\s{2,}|\t", name.strip())[0].lower()  # ICRP's lists go on with numbers
        if number > 0 and (arms or not re.search(ARMS, plain)):
            table[number] = NUMBER[next(t for t, pattern in PATTERNS.items() if re.search(pattern, plain))]
    return table[body.labels]


def draw_looks(phase: Phase, rng: np.random.Generator) -> dict[str, Look]:
    """How every tissue looks in one patient and scan; hollow organs by their walls."""

    def about(mean: float, spread: float) -> float:
        return float(rng.normal(mean, spread))

    enhanced = phase.name != "unenhanced"
    liver, spleen, pancreas = (hu * rng.normal(1, 0.12) for hu in PARENCHYMA_HU[phase.name])
    if rng.random() < 0.2:
        liver -= rng.uniform(10, 50)  # steatosis
    wall = about(75 if enhanced else 40, 12)
    return {
        "air": Look(-1000, 0, 0),
        "kidney": Look(0.5 * (phase.cortex + phase.medulla)),
        "bone": Look(about(190, 50), 25, 30),
        "lung": Look(about(-840, 30), 20, 40),
        "gas": Look(-995, 0, 0),
        "liver": Look(liver, 3, 3),
        "spleen": Look(spleen, 10 if phase.name == "corticomedullary" else 3, 2),
        "pancreas": Look(pancreas, 8, 14),
        "artery": Look(phase.artery, 3, 1),
        "portal": Look(phase.portal, 3, 1),
        "vein": Look(phase.vein, 8, 2),
        "stomach": Look(wall, 5, 5),
        "bowel": Look(wall + about(10, 8), 8, 8),
        "colon": Look(wall - 5, 5, 5),
        "urine": Look(about(8, 5), 1, 1),
        "fat": Look(about(-105, 7), 3, 4),
        "skin": Look(about(10, 20), 5, 5),
        "cartilage": Look(about(110, 20), 8, 8),
        "muscle": Look(about(60 if enhanced else 52, 6), 4, 8),
        "gland": Look(about(70 if enhanced else 38, 12), 5, 6),
    }
