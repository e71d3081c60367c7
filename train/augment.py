"""Training patches: cut, rotate, scale, shift and mirror in DALI; vary the intensities; clip and standardise.

Table 1 varies tumour slices only, by rotation, mirroring and central zoom. All random numbers come from NumPy
generators that belong to a batch, never from DALI, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch.nn import functional

from kits.normalisation import Normalisation
from kits.runtime.stacks import OFFSETS
from train.cache import Scan
from train.config import Augmentation, Config
from train.sampling import Site
from train.synthetic.lesions import grow_lesion
from train.synthetic.paste import paste_tumour
from train.synthetic.tissue import CYSTS, draw_kind

FLOOR_HU, CEILING_HU = -200.0, 600.0  # beyond them nothing differs after clipping, however the intensities vary
DRIFT_PX, DRIFT_SCALE = 0.7, 0.01
"""Standard deviations of what a lone slice's channels move and grow against each other, a slice."""
CHANNELS = len(OFFSETS)
MOST_NOISE_HU = 60.0
LOST_FAT, LOST_FAT_HU = 0.1, -100.0
"""How often all that is below 0 HU is taken for fat, as in KiTS19's pictures, and the HU that it gets."""


def _warp_graph(batch: int, patch: int, device_id: int | None) -> Any:
    """The DALI pipeline that cuts patches out of slices: five slices and their labels, each by its own matrix."""

    @pipeline_def(batch_size=batch, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    def graph() -> Any:
        warped = []
        for name, kind, how, fill in (
            *((f"slice{c}", types.INT16, types.INTERP_LINEAR, FLOOR_HU) for c in range(CHANNELS)),
            ("labels", types.UINT8, types.INTERP_NN, 0),
        ):
            image = fn.external_source(name=name, dtype=kind, ndim=3)
            matrix = fn.external_source(name=f"{name}-matrix", dtype=types.FLOAT, ndim=2)
            if device_id is not None:
                image, matrix = image.gpu(), matrix.gpu()
            to = types.FLOAT if kind == types.INT16 else kind
            warped.append(
                fn.warp_affine(
                    image, matrix=matrix, size=(patch, patch), interp_type=how, fill_value=fill, dtype=to,
                    inverse_map=True,
                )
            )  # fmt: skip
        return fn.cat(*warped[:CHANNELS], axis=2), warped[CHANNELS]

    pipeline = graph()
    pipeline.build()
    return pipeline


class Augmenter:
    """Makes batches of patches.

    Args:
        config: of the training.
        norm: how patches are standardised in the end.
        batch: patches a batch.
        device: where DALI works and patches lie.
    """

    def __init__(self, config: Config, norm: Normalisation, batch: int, device: torch.device) -> None:
        self.config, self.norm = config, norm
        self.graph = _warp_graph(batch, config.patch, None if device.type == "cpu" else device.index or 0)

    def __call__(
        self, scans: Sequence[Scan], picked: Sequence[Site], generators: Sequence[np.random.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Varied patches of some sites.

        Args:
            scans: that the sites are of.
            picked: the sites, as many as a batch has.
            generators: one a site, so that a patch does not depend on the others of its batch.

        Returns:
            Standardised float32 (batch, 5, patch, patch), and labels, int64 (batch, patch, patch).
        """
        how = self.config.augmentation
        inputs: dict[str, list[np.ndarray]] = {}
        lones: list[bool] = []
        donors = [scan for scan in scans if scan.lone and scan.groups[0] == "KT"] if how.pasted else []
        for site, rng in zip(picked, generators, strict=True):
            scan = scans[site.scan]
            chosen = how if scan.groups[site.slice] in how.groups else None
            lone = scan.lone or bool(chosen and rng.random() < chosen.alone)
            lones.append(lone)
            slices, labels = take(scan, site, lone, donors, chosen, rng)
            matrices = placements(site, lone, self.config.patch, chosen, rng)
            for name, image, matrix in zip(
                [*(f"slice{c}" for c in range(CHANNELS)), "labels"],
                [*slices, labels],
                [*matrices, matrices[CHANNELS // 2]],
                strict=True,
            ):
                inputs.setdefault(name, []).append(image[..., None])
                inputs.setdefault(f"{name}-matrix", []).append(matrix)
        images, labels_YXC = (torch.from_dlpack(out.as_tensor()).clone() for out in self.graph.run(**inputs))
        if images.is_cuda:  # DALI reuses its memory at the next run
            torch.cuda.current_stream(images.device).synchronize()
        images = images.permute(0, 3, 1, 2)  # channels last in memory, as convolutions like them
        if how.intensity:
            for number, (site, lone, rng) in enumerate(zip(picked, lones, generators, strict=True)):
                if scans[site.scan].groups[site.slice] in how.groups:
                    images[number] = vary_intensity(images[number], lone, rng)
        return self.norm.apply(images), labels_YXC[..., 0].long()


def take(
    scan: Scan, site: Site, lone: bool, donors: Sequence[Scan], how: Augmentation | None, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """A slice's five neighbours and its labels.

    At times volumes are turned upside down. A lone slice stands for its own neighbours; its kidney may get a donor's
    tumour, or one that is grown.
    """
    last = len(scan.hu) - 1
    order = [site.slice if lone else min(max(site.slice + offset, 0), last) for offset in OFFSETS]
    labels = np.asarray(scan.labels[site.slice])
    if how and rng.random() < how.reverse:
        order.reverse()
    group = scan.groups[site.slice]
    if how and lone and group != "B":
        alone = np.asarray(scan.hu[site.slice : site.slice + 1])
        made: np.ndarray | None = None
        if donors and rng.random() < how.pasted:
            donor = donors[int(rng.integers(len(donors)))]
            made, new = paste_tumour(alone, labels[None], scan.spacing, donor.hu, donor.labels, rng)
        elif rng.random() < how.lesions:
            kind = draw_kind(CYSTS, rng) if group == "KT" else None
            made, new, _ = grow_lesion(alone, labels[None], scan.spacing, rng, kind)
        if made is not None:
            return [bounded(made[0])] * CHANNELS, new[0]
    held = {z: bounded(scan.hu[z]) for z in set(order)}
    return [held[z] for z in order], labels


def bounded(hu: np.ndarray) -> np.ndarray:
    """HU within the range that matters, int16, read into memory."""
    return np.clip(hu, FLOOR_HU, CEILING_HU).astype(np.int16)


def placements(
    site: Site, lone: bool, patch: int, how: Augmentation | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """For each channel the 2 x 3 matrix that takes a patch's (x, y) to the slice's."""
    angle, flip = 0.0, 1.0
    scale: np.ndarray = np.ones(2)
    shift: np.ndarray = np.zeros(2)
    drift: np.ndarray = np.zeros(3)
    if how:
        angle = math.radians(rng.uniform(-how.rotation_degrees, how.rotation_degrees))
        if rng.random() < how.zoom_chance:
            grown = rng.uniform(-math.log(how.shrink), math.log(how.zoom))
            scale = np.exp(rng.uniform(-how.stretch / 2, how.stretch / 2, 2) - grown)
        flip = -1.0 if rng.random() < how.flip else 1.0
        shift = rng.uniform(-how.shift_px, how.shift_px, 2)
    drifts = bool(how and lone and rng.random() < how.drift)
    matrices = []
    for offset in OFFSETS:
        if drifts:  # each neighbour a little further from the middle one, as real ones are
            drift = rng.normal(0, DRIFT_PX, 3) * offset
        grow = scale * (1 + DRIFT_SCALE * drift[2])
        linear = np.array([[math.cos(angle) * grow[1] * flip, -math.sin(angle) * grow[1] * flip],
                           [math.sin(angle) * grow[0], math.cos(angle) * grow[0]]])  # fmt: skip
        target = np.array([site.centre[1] + shift[1] + drift[1], site.centre[0] + shift[0] + drift[0]])
        offset_xy = target - linear @ np.full(2, patch / 2)  # DALI counts from pixels' corners
        matrices.append(np.column_stack([linear, offset_xy]).astype(np.float32))
    return matrices


def vary_intensity(hu: torch.Tensor, lone: bool, rng: np.random.Generator) -> torch.Tensor:
    """Another scanner: gain, offset, softness and correlated noise, (5, rows, columns) in HU.

    At times a lone slice's channels share their noise, as a slice that is repeated does, and at times what is below
    0 HU is lost, as in pictures with a narrow window.
    """
    hu = (hu - 40) * float(np.exp(rng.uniform(-0.2, 0.2))) + 40 + float(rng.uniform(-20, 20))
    if rng.random() < 0.2:
        half = functional.interpolate(hu[None], scale_factor=float(rng.uniform(0.5, 0.9)), mode="bilinear")
        hu = functional.interpolate(half, size=hu.shape[1:], mode="bilinear")[0]
    if rng.random() < 0.4:
        shared = lone and rng.random() < 0.5
        noise = torch.from_numpy(rng.standard_normal(hu[:1].shape if shared else hu.shape, dtype=np.float32))
        noise = noise.to(hu.device)
        if rng.random() < 0.5:
            width = int(rng.choice([3, 5]))
            noise = functional.avg_pool2d(noise[None], width, 1, width // 2)[0] * (width * 2 / 3)
        hu = hu + noise * float(MOST_NOISE_HU * rng.random() ** 2)
    if rng.random() < LOST_FAT:
        hu = hu.masked_fill(hu < 0, LOST_FAT_HU)
    return hu
