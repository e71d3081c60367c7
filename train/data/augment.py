"""Training patches: cut, rotate, scale, shift and mirror in DALI; vary the intensities; clip and standardise.

Table 1 varies tumour slices only, by rotation, mirroring and central zoom. All random numbers come from NumPy
generators that belong to a batch, never from DALI, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch.nn import functional

from kits.choices import CYST, KIDNEY
from kits.normalisation import Normalisation
from kits.runtime.stacks import OFFSETS

from ..config import Augmentation, Config
from ..lesions.grow import grow_lesion
from ..lesions.paste import paste, paste_tumour
from ..lesions.tissue import CYSTS, draw_kind
from ..lesions.whole import WholeTumour, whole_tumours
from .cache import Scan
from .sampling import Site
from .variations import vary_content

FLOOR_HU, CEILING_HU = -200.0, 600.0  # beyond them nothing differs after clipping, however the intensities vary
DRIFT_PX, DRIFT_SCALE = 0.7, 0.01
"""Standard deviations of what a lone slice's channels move and grow against each other, a slice."""
CHANNELS = len(OFFSETS)
RIM_PX = 2  # of a slice around a patch, for interpolation
MOST_NOISE_HU = 60.0
LOST_FAT, LOST_FAT_HU = 0.1, -100.0
"""How often all that is below 0 HU is taken for fat, as in KiTS19's pictures, and the HU that it gets."""

FEEDERS = 8
"""Threads that prepare slices beside a GPU, at most; on a CPU the network wants the cores."""


def warp_graph(batch: int, patch: int, device_id: int | None, threads: int = 1) -> Any:
    """The DALI pipeline that cuts patches out of slices: five slices and their labels, each by its own matrix."""

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=device_id, prefetch_queue_depth=1)
    def graph() -> Any:
        warped = []
        for name, kind, how, fill in (
            *((f"slice{c}", types.INT16, types.INTERP_LINEAR, FLOOR_HU) for c in range(CHANNELS)),
            ("labels", types.UINT8, types.INTERP_NN, 0),
        ):
            image = fn.external_source(name=name, dtype=kind, ndim=3)
            matrix = fn.external_source(name=f"{name}-matrix", dtype=types.FLOAT, ndim=2)
            if device_id is not None:
                image = image.gpu()  # the matrix stays: DALI takes what is named from the CPU only
            to = types.FLOAT if kind == types.INT16 else kind
            warped.append(
                fn.warp_affine(
                    image, matrix=matrix, size=(patch, patch), interp_type=how, fill_value=fill, dtype=to,
                    inverse_map=True,
                )
            )  # fmt: skip
        return fn.cat(*warped[:CHANNELS], axis=2), warped[CHANNELS]

    return graph()


@dataclass(frozen=True)
class Donors:
    """Whose tumours are pasted: lone slices with one, and whole ones of volumes."""

    slices: Sequence[Scan] = ()
    whole: Sequence[WholeTumour] = ()

    @classmethod
    def of(cls, scans: Sequence[Scan], how: Augmentation) -> Donors:
        """Those among some scans, as far as any are pasted."""
        if not (how.pasted or how.pasted_among):
            return cls()
        lone = [scan for scan in scans if scan.lone and scan.groups[0] == "KT"]
        volumes = ((scan.hu, np.asarray(scan.labels)) for scan in scans if not scan.lone and "KT" in scan.groups)
        return cls(lone, [*whole_tumours(volumes)] if how.whole else ())


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
        threads = feeders(device, batch)
        self.feeders = ThreadPoolExecutor(threads)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.known: Sequence[Scan] = ()
        self.donors = Donors()
        self.graph = warp_graph(batch, config.patch, None if device.type == "cpu" else device.index or 0, threads)
        self.graph.build()

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
        if self.stream is None:
            return self.make(scans, picked, generators)
        with torch.cuda.stream(self.stream):  # of its own: no step waits for a batch to come
            made = self.make(scans, picked, generators)
            self.stream.synchronize()
        return made

    def make(
        self, scans: Sequence[Scan], picked: Sequence[Site], generators: Sequence[np.random.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``__call__``, on the current stream."""
        how = self.config.augmentation
        if scans is not self.known:
            self.known, self.donors = scans, Donors.of(scans, how)
        donors = self.donors
        prepared = self.feeders.map(lambda site, rng: self.prepare(scans, site, donors, rng), picked, generators)
        lones, fed = zip(*prepared, strict=True)
        inputs = {name: [one[name] for one in fed] for name in fed[0]}
        images, labels_YXC = (torch.from_dlpack(out.as_tensor()).clone() for out in self.graph.run(**inputs))
        if images.is_cuda:  # DALI reuses its memory at the next run
            torch.cuda.current_stream(images.device).synchronize()
        images = images.permute(0, 3, 1, 2)  # channels last in memory, as convolutions like them
        if how.intensity:
            for number, (site, lone, rng) in enumerate(zip(picked, lones, generators, strict=True)):
                if group_of_site(scans, site) in how.groups:
                    varied = vary_content(images[number], labels_YXC[number, ..., 0], how, rng)
                    images[number] = vary_intensity(varied, lone, rng)
        labels = labels_YXC[..., 0].long()
        if self.config.classes <= CYST:
            labels.masked_fill_(labels == CYST, KIDNEY)
        return self.norm.apply(images), labels

    def prepare(
        self, scans: Sequence[Scan], site: Site, donors: Donors, rng: np.random.Generator
    ) -> tuple[bool, dict[str, np.ndarray]]:
        """Whether a site is taken for a lone slice, and what the graph is fed of it: crops, and their matrices."""
        scan, how = scans[site.scan], self.config.augmentation
        chosen = how if group_of_site(scans, site) in how.groups else None
        lone = scan.lone or bool(chosen and rng.random() < chosen.alone)
        slices, labels = take(scan, site, lone, donors, chosen, rng)
        matrices = placements(site, lone, self.config.patch, chosen, rng)
        fed: dict[str, np.ndarray] = {}
        for name, image, matrix in zip(
            [*(f"slice{c}" for c in range(CHANNELS)), "labels"],
            [*slices, labels],
            [*matrices, matrices[CHANNELS // 2]],
            strict=True,
        ):
            fed[name], fed[f"{name}-matrix"] = cropped(image, matrix, self.config.patch)
        return lone, fed


def group_of_site(scans: Sequence[Scan], site: Site) -> str:
    """The paper's group of what a network sees there: of the region in stage 2, of the slice in stage 1."""
    return site.region or scans[site.scan].groups[site.slice]


def cropped(image: np.ndarray, matrix: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """What a patch needs of a slice, (rows, columns, 1), and the matrix that takes the patch's (x, y) to it."""
    corners = matrix @ np.array([[0, patch, 0, patch], [0, 0, patch, patch], [1, 1, 1, 1]], np.float64)
    sides = []
    for low, high, length in zip(corners.min(1), corners.max(1), image.shape[::-1], strict=True):
        start = min(max(math.floor(low) - RIM_PX, 0), length - 1)
        sides.append(slice(start, max(min(math.ceil(high) + RIM_PX, length), start + 1)))
    x, y = sides
    moved = matrix - np.array([[0, 0, x.start], [0, 0, y.start]], np.float32)
    return np.ascontiguousarray(image[y, x])[..., None], moved.astype(np.float32)


def feeders(device: torch.device, batch: int) -> int:
    """How many threads prepare slices: one beside a network on the CPU, else this process' part of the cores."""
    own = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return 1 if device.type == "cpu" else max(1, min(FEEDERS, batch, own))


def keep_for_this_stream(*tensors: torch.Tensor) -> None:
    """Tensors that another stream made are not given back to it before this one is done with them."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def take(
    scan: Scan, site: Site, lone: bool, donors: Donors, how: Augmentation | None, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """A slice's five neighbours and its labels.

    At times volumes are turned upside down. A lone slice stands for its own neighbours. A kidney may get a donor's
    tumour, or one that is grown: in a lone slice a section of one, in a volume's slices those of one body.
    """
    last = len(scan.hu) - 1
    order = [site.slice if lone else min(max(site.slice + offset, 0), last) for offset in OFFSETS]
    labels = np.asarray(scan.labels[site.slice])
    if how and rng.random() < how.reverse:
        order.reverse()
    group = scan.groups[site.slice]
    if how and group != "B" and (lone or how.pasted_among or how.grown_among):
        shown = [site.slice] if lone else order
        pasted, lesions = (how.pasted, how.lesions) if lone else (how.pasted_among, how.grown_among)
        made: np.ndarray | None = None
        if donors.slices and rng.random() < pasted:
            hu, all_labels = scan.hu[shown], scan.labels[shown]
            if not lone and donors.whole and rng.random() < how.whole:
                whole = donors.whole[int(rng.integers(len(donors.whole)))]
                made, new = paste(hu, all_labels, scan.spacing, whole.cut, whole.kidney_hu, rng)
            else:
                donor = donors.slices[int(rng.integers(len(donors.slices)))]
                made, new = paste_tumour(hu, all_labels, scan.spacing, donor.hu, donor.labels, rng)
        elif rng.random() < lesions:
            kind = draw_kind(CYSTS, rng) if group == "KT" else None
            made, new, _ = grow_lesion(scan.hu[shown], scan.labels[shown], scan.spacing, rng, kind)
        if made is not None:
            return [bounded(one) for one in made] * (CHANNELS // len(made)), new[len(new) // 2]
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
