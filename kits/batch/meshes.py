"""Surfaces of kidneys and lesions, smoothed and closed, in patient coordinates: STL, OBJ or GLB.

STL and OBJ are in mm and in LPS, DICOM's space: x to the patient's left, y to posterior, z to superior; their headers
say so, as 3D Slicer reads it. For RAS negate x and y. GLB follows glTF: metres, and the patient stands and faces the
viewer: x to the patient's left, y to superior, z to anterior.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from kits.batch.colours import COLOURS, NAMES
from kits.choices import KIDNEY
from kits.errors import OutputError
from kits.geometry import Spacing, bounding_box
from kits.io.atomic import aside, write_text
from kits.io.volume import Grid, Volume
from kits.measure.results import PURPOSE, Lesion
from kits.measure.shapes import blocks_of, coarse
from kits.measure.sides import left_side

FORMATS = ("stl", "obj", "glb")
SMOOTH_MM = 0.8
"""The smoothing before the surface is cut, or 0.6 voxels where those are larger."""
SMOOTH_VOXELS = 0.6
TAUBIN_ROUNDS = 10
"""Rounds of Taubin's smoothing (SIGGRAPH 1995), which does not shrink what it smooths."""
FINEST_MM = 1.0
"""Voxels in a plane are joined to at least so many mm: finer ones make files of tens of megabytes."""
GLTF = np.array([[1e-3, 0, 0, 0], [0, 0, 1e-3, 0], [0, -1e-3, 0, 0], [0, 0, 0, 1]])
"""LPS in mm to glTF's axes and metres."""


def needed(name: str) -> Any:
    """A module of the extra ``report``.

    Raises:
        OutputError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise OutputError(
            f"Surfaces need {error.name}, which is not installed; run pip install 'kits-cascade[report]'."
        ) from error


def canonical_to_lps(home: Grid) -> np.ndarray:
    """The 4 x 4 matrix from (x, y, z) voxels of the canonical array of an image to mm in LPS."""
    order, flips = home.canonical_axes()
    steps = np.reshape(home.direction, (3, 3)) * home.spacing_xyz
    matrix = np.eye(4)
    matrix[:3, 3] = home.origin
    for world, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        step = steps[:, 2 - axis]
        if flip.step == -1:
            matrix[:3, 3] += (home.size_xyz[2 - axis] - 1) * step
            step = -step
        matrix[:3, 2 - world] = step
    return matrix


def surface(mask: np.ndarray, spacing: Spacing, matrix: np.ndarray, finest_mm: float = FINEST_MM) -> Any:
    """The smoothed, closed surface of a mask as a ``trimesh.Trimesh``.

    Its volume is that of the voxels: smoothing and flat triangles cut curves short, so that the surface is pushed out
    along its normals by what is missing.

    Args:
        mask: bool (z, y, x), not empty.
        spacing: mm (z, y, x).
        matrix: 4 x 4, from (x, y, z) voxels to where the surface is wanted.
        finest_mm: voxels are joined to at least so many mm.

    Raises:
        OutputError: scikit-image or trimesh is not installed.
    """
    marching_cubes, trimesh = needed("skimage.measure").marching_cubes, needed("trimesh")
    blocks = np.array(blocks_of(spacing, finest_mm))
    steps = np.array(spacing) * blocks
    sigma = np.maximum(SMOOTH_MM / steps, SMOOTH_VOXELS)
    margin = (np.ceil(4 * sigma).astype(int) + 1) * blocks  # so that what the scan's end cuts is closed, too
    box = bounding_box(mask)
    assert box is not None
    padded = coarse(np.pad(mask[box], [(n, n + block) for n, block in zip(margin, blocks, strict=True)]), list(blocks))
    soft = ndimage.gaussian_filter(padded, sigma)
    inside = max(1, round(padded.sum()))
    level = np.partition(soft.ravel(), [-inside - 1, -inside])[[-inside - 1, -inside]].mean()
    vertices, faces, _, _ = marching_cubes(soft, level, allow_degenerate=False)
    result = trimesh.Trimesh((vertices * steps)[:, ::-1], faces)
    trimesh.smoothing.filter_taubin(result, iterations=TAUBIN_ROUNDS)
    if result.volume < 0:
        result.invert()
    volume = np.count_nonzero(mask[box]) * float(np.prod(spacing))
    for _ in range(2):
        push = np.clip((volume - result.volume) / result.area, -max(steps) / 4, max(steps) / 4)
        result.vertices = result.vertices + push * result.vertex_normals
    first = (blocks - 1) / 2 + [s.start for s in box] - margin  # the first block's middle, in voxels
    voxels = result.vertices / np.array(spacing[::-1]) + first[::-1]
    result.vertices = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    if np.linalg.det(matrix[:3, :3]) < 0:
        result.invert()
    return result


def structures(volume: Volume, labels: np.ndarray, lesions: Sequence[Lesion]) -> Iterator[tuple[str, int, np.ndarray]]:
    """What gets a surface: its name, its label, its mask (z, y, x); each side's parenchyma, then the lesions."""
    if found := left_side(labels, volume.hu):
        box, is_left = found
        for side in ("right", "left"):
            mask = np.zeros(labels.shape, bool)
            mask[box] = (labels[box] == KIDNEY) & (is_left == (side == "left"))
            if mask.any():
                yield f"{side}_parenchyma", KIDNEY, mask
    for label, kind in NAMES.items():
        own = [one for one in lesions if one.kind == kind]
        pieces = cc3d.connected_components(labels == label) if own else labels
        for one in own:
            yield one.name.replace(" ", "_"), label, pieces == pieces[one.middle]


def write_meshes(path: Path, kind: str, volume: Volume, labels: np.ndarray, lesions: Sequence[Lesion]) -> list[Path]:
    """Write a case's surfaces: one GLB file, or a file each and then their list; returns the files.

    Args:
        path: the GLB file, or the list, whose folder also gets the others.
        kind: ``stl``, ``obj`` or ``glb``.
        volume: the CT.
        labels: uint8 (z, y, x) on its canonical grid.
        lesions: measured on them.

    Raises:
        OutputError: one cannot be made or written.
    """
    trimesh = needed("trimesh")
    matrix = canonical_to_lps(volume.home)
    if kind == "glb":
        matrix = GLTF @ matrix
    surfaces = {
        name: (label, surface(mask, volume.spacing, matrix))
        for name, label, mask in structures(volume, labels, lesions)
    }
    if kind == "glb":
        for label, one in surfaces.values():
            one.visual = trimesh.visual.TextureVisuals(material=_material(label))
        scene = trimesh.Scene({name: one for name, (_, one) in surfaces.items()}, metadata={"purpose": PURPOSE})
        _write(path, scene.export(file_type="glb") if surfaces else empty_glb())
        return [path]
    paths = [path.parent / f"{name}.{kind}" for name in surfaces]
    for file, (_, one) in zip(paths, surfaces.values(), strict=True):
        _write(file, labelled(one.export(file_type=kind), kind))
    rows = [
        {"file": file.name, "colour": COLOURS[label], "volume_ml": round(one.volume / 1000, 3)}
        for file, (label, one) in zip(paths, surfaces.values(), strict=True)
    ]
    listed = {"purpose": PURPOSE, "space": "LPS", "unit": "mm", "surfaces": rows}
    write_text(json.dumps(listed, indent=2) + "\n", path)  # last: where it is, all are
    return [*paths, path]


def empty_glb() -> bytes:
    """A binary glTF file of an empty scene: its header, then one chunk of JSON."""
    text = json.dumps({"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"extras": {"purpose": PURPOSE}}]}).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def labelled(data: bytes | str, kind: str) -> bytes:
    """A binary STL or an OBJ file that says which space it is in, and what it is not for."""
    text = f"SPACE=LPS {PURPOSE}"
    if isinstance(data, str):
        return f"# {text}\n{data}".encode()
    return text.encode().ljust(80)[:80] + data[80:] if kind == "stl" else data


def _material(label: int) -> Any:
    """Matt, in the label's colour; what is round a tumour lets it shine through."""
    see_through = label == KIDNEY
    return needed("trimesh").visual.material.PBRMaterial(
        name=NAMES[label],
        baseColorFactor=[*COLOURS[label], 110 if see_through else 255],
        metallicFactor=0.0,
        roughnessFactor=0.7,
        alphaMode="BLEND" if see_through else "OPAQUE",
        doubleSided=True,
    )


def _write(path: Path, data: bytes) -> None:
    with aside(path) as partial:
        partial.write_bytes(data)
