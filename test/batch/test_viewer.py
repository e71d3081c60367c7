"""A viewer page's files: what they hold is the scan's, in its place, small, and no name can turn into markup."""

import base64
import gzip
import json
import re

import numpy as np
import pytest

from kits.batch.meshes import canonical_to_lps
from kits.batch.outputs import Pages
from kits.batch.viewer import fetch
from kits.batch.viewer.findings import doubts, findings_of
from kits.batch.viewer.page import to_script, write_index, write_page
from kits.batch.viewer.picture import LOWEST_HU, MOST_VOXELS, STEP_HU, show
from kits.errors import OutputError
from kits.io.volume import Volume
from kits.measure.measure import measure
from test.io.test_volume import ORIENTATIONS, stored_as

pytest.importorskip("skimage", reason="needs the extra report: pip install 'kits-cascade[report]'")
pytest.importorskip("trimesh", reason="needs the extra report: pip install 'kits-cascade[report]'")
SPACING = (3.0, 1.0, 1.0)


def case(shape=(30, 90, 120), spacing=SPACING):
    """A scan with two kidneys and, in the right one, a tumour; and its label map."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    labels = np.zeros(shape, np.uint8)
    for at, size in ((0.27, 9), (0.73, 10)):
        ball = ((z / shape[0] - 0.5) * 30) ** 2 + (y - 45) ** 2 / 2.5 + (x - at * shape[2]) ** 2 < size**2
        labels[ball] = 1
    labels[12:18, 40:52, 20:30] = 2
    hu = np.full(shape, -1000, np.int16)
    hu[:, 8:82, 6:114] = 40
    hu[labels == 1], hu[labels == 2] = 180, 90
    hu += np.random.default_rng(0).integers(-20, 20, shape, np.int16)
    return Volume.from_array(hu, spacing, "scan"), labels


@pytest.fixture
def library(monkeypatch):
    """A stand-in for NiiVue, where a test draws nothing."""
    monkeypatch.setattr("kits.batch.viewer.page.niivue", lambda: b"/* NiiVue */")


def page(folder, name="scan", volume=None, labels=None, **extra):
    if volume is None:
        volume, labels = case()
    return write_page(folder, name, volume, labels, measure(labels, volume.hu, volume.spacing), **extra)


def data_of(folder, name="scan"):
    text = (folder / "cases" / f"{name}.data.js").read_text()
    return json.loads(re.fullmatch(r"window.KITS_CASE = (.*);\n", text, re.S)[1])


def voxels(text):
    """The NIfTI file inside a page: its voxels (z, y, x), its affine, slope and intercept."""
    content = gzip.decompress(base64.b64decode(text))
    size = np.frombuffer(content, "<i2", 3, 42)
    affine = np.vstack([np.frombuffer(content, "<f4", 12, 280).reshape(3, 4), [0, 0, 0, 1]])
    slope, intercept = np.frombuffer(content, "<f4", 2, 112)
    return np.frombuffer(content, np.uint8, offset=352).reshape(size[::-1]), affine, slope, intercept


def test_the_picture_shows_the_scans_hu_up_to_its_step(library, tmp_path):
    volume, labels = case()
    page(tmp_path, volume=volume, labels=labels)
    grey, affine, slope, intercept = voxels(data_of(tmp_path)["ct"])
    shown_labels, same, *_ = voxels(data_of(tmp_path)["labels"])
    np.testing.assert_array_equal(affine, same)
    # Voxel by voxel, found through millimetres.
    at = np.argwhere(shown_labels > 0)
    world = np.column_stack([at[:, ::-1], np.ones(len(at))]) @ affine.T
    to_scan = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ canonical_to_lps(volume.home))
    z, y, x = np.rint(world @ to_scan.T)[:, 2::-1].astype(int).T
    np.testing.assert_array_equal(labels[z, y, x], shown_labels[tuple(at.T)])
    assert len(at) == np.count_nonzero(labels)
    error = grey[tuple(at.T)] * slope + intercept - volume.hu[z, y, x]
    assert np.abs(error).max() <= STEP_HU / 2
    assert intercept == LOWEST_HU


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_lesions_surfaces_and_picture_share_one_space_in_any_orientation(order, signs):
    volume, labels = case()
    turned = Volume.from_image(stored_as(volume.hu, order, signs), "scan")
    shown = show(turned, labels)
    (row,) = findings_of(turned, measure(labels, turned.hu, turned.spacing), []).lesions
    x, y, z, _ = np.linalg.inv(shown.affine) @ [*row["place_mm"], 1]
    assert shown.labels[round(z), round(y), round(x)] == 2


def test_a_large_scan_is_shown_coarser_and_the_page_stays_small(library, tmp_path):
    shape = (300, 260, 300)
    labels = np.zeros(shape, np.uint8)
    labels[20:280, 60:200, 20:120] = 1
    labels[140:160, 100:120, 40:60] = 2
    rng = np.random.default_rng(0)
    hu = rng.integers(-30, 230, shape, np.int16)  # noise does not compress
    hu[:, :10] = -1000
    volume = Volume.from_array(hu, (1.0, 0.7, 0.7), "scan")
    shown = show(volume, labels)
    assert shown.grey.size <= 1.02 * MOST_VOXELS
    extent = np.multiply(shown.grey.shape, shown.spacing)
    ml = np.count_nonzero(shown.labels == 1) * np.prod(shown.spacing) / 1000
    assert ml == pytest.approx(np.count_nonzero(labels == 1) * 0.49 / 1000, rel=0.02)
    assert (extent <= np.multiply(shape, volume.spacing) + 1e-6).all()
    x, y, z, _ = shown.affine @ [*np.argwhere(shown.labels == 2).mean(0)[::-1], 1]
    np.testing.assert_allclose((x, y, z), (-0.7 * 49.5, -0.7 * 109.5, 149.5), atol=0.6)
    page(tmp_path, volume=volume, labels=labels)
    assert sum(path.stat().st_size for path in (tmp_path / "cases").iterdir()) < 15e6


def test_numbers_are_the_label_maps_own(library, tmp_path):
    volume, labels = case()
    page(tmp_path, volume=volume, labels=labels)
    data = data_of(tmp_path)
    assert sum(row["kidney_ml"] for row in data["sides"]) == pytest.approx(np.count_nonzero(labels == 1) * 0.003)
    assert [row["volume_ml"] for row in data["lesions"]] == [pytest.approx(np.count_nonzero(labels == 2) * 0.003)]


HOSTILE = """x"><img src=x onerror=alert(1)><!--@DATA@ #%?&'</script>""".replace("/", "\u2215")


def test_no_name_turns_into_markup(library, tmp_path):
    page(tmp_path, HOSTILE, warnings=["</script><b>bad"])
    for path in (tmp_path / "index.html", tmp_path / "cases" / f"{HOSTILE}.html"):
        text = path.read_text()
        assert "<img" not in text
        assert "<b>bad" not in text
        assert text.count("</script>") == text.count("<script")
        assert "script-src 'self'" in text
    assert data_of(tmp_path, HOSTILE)["name"] == HOSTILE
    assert "</" not in to_script({"</script>": "&<>"})


def test_the_index_lists_all_pages_and_what_failed(library, tmp_path):
    page(tmp_path, "one")
    page(tmp_path, "two")
    (tmp_path / "cases" / ".partial-three.json").write_text("{")  # another run is at work
    index = write_index(tmp_path, {"two": "an older failure", "four": "four.nii: is damaged."})
    lines = json.loads(re.search(r'id="data">(.*)</script>', index.read_text())[1])
    assert [line["name"] for line in lines] == ["one", "two", "four"]
    assert lines[2]["error"] == "four.nii: is damaged."
    assert lines[0]["totals"]["tumour_ml"] == pytest.approx(2.16)


def test_an_empty_label_map_has_a_page_too(library, tmp_path):
    volume, labels = case()
    page(tmp_path, volume=volume, labels=np.zeros_like(labels), warnings=["No kidney was found."])
    data = data_of(tmp_path)
    assert (data["lesions"], data["surfaces"], data["warnings"]) == ([], [], ["No kidney was found."])


def test_confidence_is_that_of_the_least_sure_part(library, tmp_path):
    volume, labels = case()
    percent = np.stack([95 * (labels > 0), 60 * (labels == 2)]).astype(np.uint8)
    found = findings_of(volume, measure(labels, volume.hu, volume.spacing, percent), [])
    assert found.confidence == pytest.approx(0.6)
    assert "not sure" in found.first[0]["text"]


def test_doubtful_lesions_come_first_and_the_largest_is_always_named():
    volume, labels = case()
    labels[10:13, 60:64, 80:86] = 2
    hu = volume.hu.copy()
    hu[10:13, 60:64, 80:86] = 5
    texts = [text for _, text in doubts(measure(labels, hu, SPACING).lesions)]
    assert "only 0.2 ml" in texts[0]
    assert "like water" in texts[0]
    assert "the largest" in texts[1]


def test_without_the_library_there_is_a_sentence_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "places", lambda: (tmp_path / "a.js", tmp_path / "b.js"))
    with pytest.raises(OutputError, match=r"python -m kits.batch.viewer.fetch"):
        page(tmp_path / "html")
    (tmp_path / "b.js").write_bytes(b"cut short")
    with pytest.raises(OutputError, match=r"b\.js: is not NiiVue"):
        fetch.niivue()


def test_a_download_that_is_not_the_promised_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "places", lambda: (tmp_path / "a.js", tmp_path / "b.js"))
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(OutputError, match="is not the file that npm's registry promises"):
        fetch.fetch((tmp_path / "other.tgz").as_uri())
    with pytest.raises(OutputError, match="could not be fetched"):
        fetch.fetch((tmp_path / "missing.tgz").as_uri())
    assert not list(tmp_path.glob("*.js"))


def test_asking_for_pages_without_the_library_is_told_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "places", lambda: (tmp_path / "a.js", tmp_path / "b.js"))
    with pytest.raises(OutputError, match="fetch it once"):
        Pages(str(tmp_path / "html"), tmp_path)
