"""How a whole case is scored, and where stage 2 looks: the networks of a training run on a cache's scans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from kits.cascade.cascade import most_probable
from kits.cascade.components import components
from kits.cascade.preprocess import pad_to_window
from kits.choices import CYST, KIDNEY, TUMOUR
from kits.geometry import Grids, cover, spans
from kits.networks import Network
from kits.normalisation import Normalisation
from kits.plan import NATIVE
from kits.runtime.engine import Engine
from kits.runtime.weights import Member

from .data.cache import Scan
from .data.sampling import Z_MARGIN, Box

REGIONS = {"kidney": (KIDNEY, TUMOUR, CYST), "tumour": (TUMOUR,), "cyst": (CYST,)}
"""The labels of what is scored."""


def predict_labels(
    network: Network, scan: Scan, role: str, norm: Normalisation, engine: Engine, boxes: Sequence[Box] | None = None
) -> np.ndarray:
    """A scan's label map by one network, uint8 (z, y, x) on the scan's grid.

    Args:
        network: from ``Engine.place``, or on its device and in evaluation mode.
        scan: as the network's stage sees it.
        role: ``locate`` looks at whole slices, ``segment`` at the windows around boxes.
        norm: how its input is standardised.
        engine: where it runs.
        boxes: of the kidneys; the true ones by default.
    """
    hu = torch.from_numpy(np.array(scan.hu)).to(engine.device).float()
    slices_ZYX = pad_to_window(norm.apply(hu), norm.air)
    depth, rows, columns = scan.hu.shape
    if role == "locate":
        boxes = [((0, 0, 0), scan.hu.shape)]
    elif boxes is None:
        boxes = scan.kidneys
    wanted = [
        (
            max(0, low[0] - Z_MARGIN),
            min(depth, high[0] + Z_MARGIN),
            tuple((y, x) for y in cover(low[1], high[1], rows) for x in cover(low[2], high[2], columns)),
        )
        for low, high in boxes
    ]
    labels = np.zeros(scan.hu.shape, np.uint8)
    for first, last, windows in spans(wanted):
        probabilities = engine.predict([network], slices_ZYX, range(first, last), windows)
        labels[first:last] = most_probable(probabilities[..., :rows, :columns]).cpu().numpy()
    return labels


def validate(
    network: Network, scans: Sequence[Scan], role: str, norm: Normalisation, engine: Engine, classes: int = 3
) -> dict[str, float]:
    """Volumetric Dice of whole cases: mean over patients, of kidney with all that is in it, of tumour, and of cysts.

    Stage 2 is scored on the true kidneys' regions, so that the figure is its own. Patients without a structure do not
    enter its mean, nor do interpolated slices; ``score`` is the mean of the first two figures, or of what there is.
    Cysts are scored of networks that know them, those of 4 classes.
    """
    scored = {name: region for name, region in REGIONS.items() if region[-1] < classes or name == "kidney"}
    counts: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for scan in scans:
        predicted, truth = (
            np.delete(labels, scan.interpolated, axis=0)
            for labels in (predict_labels(network, scan, role, norm, engine), np.asarray(scan.labels))
        )
        for name, region in scored.items():
            p, t = np.isin(predicted, region), np.isin(truth, region)
            counts[name, scan.patient] += (2 * np.count_nonzero(p & t), np.count_nonzero(p) + np.count_nonzero(t))
            counts[f"has {name}", scan.patient] += np.count_nonzero(t)
    result = {}
    for name in scored:
        patients = [patient for n, patient in counts if n == name and counts[f"has {name}", patient].any()]
        if patients:
            result[name] = round(float(np.mean([np.divide(*counts[name, patient]) for patient in patients])), 4)
    judged = [result[name] for name in ("kidney", "tumour") if name in result]
    return result | {"score": round(float(np.mean(judged)), 4)} if judged else {"score": 0.0}


def locate_kidneys(member: Member, halved: Sequence[Scan], engine: Engine) -> Mapping[str, Sequence[Box]]:
    """Boxes at full resolution that a network of stage 1 finds, by scan name, as ``kits.locate`` does.

    Args:
        member: the network.
        halved: scans as stage 1 sees them.
        engine: where it runs.
    """
    network = engine.place(member.network)
    found = {}
    for scan in halved:
        labels = predict_labels(network, scan, "locate", member.info.norm, engine)
        z, y, x = scan.spacing
        whole = len(labels), 2 * labels.shape[1], 2 * labels.shape[2]
        grids = Grids.from_shape(whole, (z, y / 2, x / 2), NATIVE)
        _, boxes = components(labels > 0, grids.smallest_component(labels.shape))
        found[scan.name] = [
            ((b[0].start, 2 * b[1].start, 2 * b[2].start), (b[0].stop, 2 * b[1].stop, 2 * b[2].stop))
            for b in boxes[: NATIVE.kidneys]
        ]
    return found
