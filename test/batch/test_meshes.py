"""Surfaces are closed, as large as their voxels, and lie in the patient where the label map lies."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.colours import COLOURS
from kits.batch.meshes import FORMATS, canonical_to_lps, needed, surface, write_meshes
from kits.batch.outputs import Surfaces
from kits.errors import OutputError
from kits.io.volume import Volume
from kits.measure.measure import measure

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")

SPACINGS = [(1.0, 0.8, 0.8), (5.0, 0.7, 0.7), (0.5, 0.9, 0.9)]


def ball(radius, spacing):
    axes = [np.arange(-np.ceil(radius / s) - 1, np.ceil(radius / s) + 2) * s for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z - 0.3) ** 2 + y**2 + (x - 0.2) ** 2 <= radius**2


def in_mm(spacing):
    return np.diag([*spacing[::-1], 1.0])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [4, 8, 20])
def test_surface_is_closed_and_has_the_voxels_volume(radius, spacing):
    mask = ball(radius, spacing)
    found = surface(mask, spacing, in_mm(spacing))
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.volume == pytest.approx(mask.sum() * np.prod(spacing), rel=0.01)
    np.testing.assert_allclose(
        found.center_mass[::-1], np.argwhere(mask).mean(axis=0) * spacing, atol=0.1 * max(spacing) + 0.1
    )


def test_smoothing_takes_the_steps_away_and_keeps_the_size():
    mask = ball(20, (5.0, 0.8, 0.8))
    found = surface(mask, (5.0, 0.8, 0.8), in_mm((5.0, 0.8, 0.8)))
    assert found.area == pytest.approx(4 * np.pi * 400, rel=0.05)
    assert found.bounds[1][0] - found.bounds[0][0] == pytest.approx(40, abs=1.5)


def test_what_the_volumes_end_cuts_is_closed_there():
    mask = ball(10, (1.0, 1.0, 1.0))
    half = np.ascontiguousarray(mask[: len(mask) // 2, :, : mask.shape[2] // 2])
    found = surface(half, (1.0, 1.0, 1.0), in_mm((1.0, 1.0, 1.0)))
    assert found.is_watertight
    assert found.volume == pytest.approx(half.sum(), rel=0.01)


@pytest.mark.parametrize("voxels", [[(1, 1, 1)], [(1, 1, 1), (2, 2, 2)], [(0, 0, 0), (0, 0, 2)]])
def test_a_voxel_or_two_have_a_surface_too(voxels):
    mask = np.zeros((3, 3, 3), bool)
    mask[tuple(np.transpose(voxels))] = True
    found = surface(mask, (3.0, 0.8, 0.8), in_mm((3.0, 0.8, 0.8)))
    assert found.is_watertight
    assert 0 < found.volume < 3 * mask.sum() * 3 * 0.64


def scan(direction):
    """A tilted, stored-any-way scan with both kidneys and a tumour in the patient's left one; and its label map."""
    labels = np.zeros((30, 40, 50), np.uint8)
    labels[5:25, 10:30, 3:17] = 1
    labels[5:25, 10:30, 33:47] = 1
    labels[12:18, 15:25, 40:47] = 2
    hu = np.where(labels > 0, 100, -100).astype(np.int16)
    image, label_map = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
    for one in (image, label_map):
        one.SetSpacing((0.8, 0.9, 2.0))
        one.SetOrigin((10.0, -20.0, 300.0))
        one.SetDirection(direction)
    return Volume.from_image(image, "scan"), label_map


def written(folder, kind, volume, labels):
    path = folder / ("a.glb" if kind == "glb" else "a/surfaces.json")
    return write_meshes(path, kind, volume, labels, measure(labels, volume.hu, volume.spacing).lesions)


TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [IDENTITY, TILTED, FLIPPED])
@pytest.mark.parametrize("kind", FORMATS)
def test_surfaces_lie_where_the_label_map_lies(tmp_path, kind, direction):
    volume, label_map = scan(direction)
    order, flips = volume.home.canonical_axes()
    stored = sitk.GetArrayFromImage(label_map)
    written(tmp_path, kind, volume, np.ascontiguousarray(stored.transpose(order)[flips]))
    if kind == "glb":
        found = trimesh.load(tmp_path / "a.glb").geometry["tumour_1"]
        x, y, z = found.center_mass * 1000
        centre = (x, -z, y)
    else:
        found = trimesh.load(tmp_path / "a" / f"tumour_1.{kind}")
        centre = found.center_mass
    voxel = np.argwhere(stored == 2).mean(axis=0)[::-1]
    expected = label_map.TransformContinuousIndexToPhysicalPoint(voxel.tolist())
    assert found.is_watertight
    assert found.volume > 0
    np.testing.assert_allclose(centre, expected, atol=0.1)


def test_canonical_to_lps_is_the_label_maps_own_geometry():
    volume, label_map = scan(TILTED)
    order, flips = volume.home.canonical_axes()
    matrix = canonical_to_lps(volume.home)
    for index in ((0, 0, 0), (49, 39, 29), (7, 31, 2)):
        marker = np.zeros((30, 40, 50))
        marker[index[::-1]] = 1
        zyx = np.argwhere(marker.transpose(order)[flips])[0]
        world = matrix @ [*zyx[::-1], 1]
        np.testing.assert_allclose(world[:3], label_map.TransformIndexToPhysicalPoint(index), atol=1e-9)


@pytest.mark.parametrize("kind", ["stl", "obj"])
def test_a_file_a_structure_and_a_list_of_them(tmp_path, kind):
    volume, label_map = scan(IDENTITY)
    labels = sitk.GetArrayFromImage(label_map)
    paths = written(tmp_path, kind, volume, labels)
    names = ["right_parenchyma", "left_parenchyma", "tumour_1"]
    assert [path.name for path in paths] == [*(f"{name}.{kind}" for name in names), "surfaces.json"]
    listed = json.loads(paths[-1].read_text())
    assert (listed["space"], listed["unit"]) == ("LPS", "mm")
    assert [tuple(one["colour"]) for one in listed["surfaces"]] == [COLOURS[1], COLOURS[1], COLOURS[2]]
    assert listed["surfaces"][2]["volume_ml"] == pytest.approx((labels == 2).sum() * volume.voxel_ml, rel=0.01)
    assert b"SPACE=LPS" in paths[0].read_bytes()[:80]


def test_glb_names_and_colours_its_parts(tmp_path):
    volume, label_map = scan(IDENTITY)
    (path,) = written(tmp_path, "glb", volume, sitk.GetArrayFromImage(label_map))
    scene = trimesh.load(path)
    assert set(scene.geometry) == {"right_parenchyma", "left_parenchyma", "tumour_1"}
    colour = scene.geometry["tumour_1"].visual.material.baseColorFactor
    np.testing.assert_allclose(colour[:3], COLOURS[2], atol=1)


def test_nothing_labelled_leaves_an_empty_list(tmp_path):
    volume, _ = scan(IDENTITY)
    paths = written(tmp_path, "stl", volume, np.zeros(volume.hu.shape, np.uint8))
    assert [path.name for path in paths] == ["surfaces.json"]
    (path,) = written(tmp_path, "glb", volume, np.zeros(volume.hu.shape, np.uint8))
    assert not trimesh.load(path).geometry


def test_a_missing_package_is_named_with_its_remedy():
    with pytest.raises(OutputError, match=r"no_such_package.*kits-cascade\[report\]"):
        needed("no_such_package")


def test_the_option_offers_every_format():
    assert Surfaces.choices == FORMATS
