"""A viewer page in a real browser, opened from disk: it draws, tells the label map's numbers, jumps, sorts, filters."""

import re
import shutil
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from kits.batch.viewer import fetch
from kits.batch.viewer.page import write_index, write_page
from kits.io.volume import Volume
from kits.measure.measure import measure
from test.batch.test_viewer import HOSTILE, case

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("trimesh", reason="needs the extra report: pip install 'kits-cascade[report]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        not any(place.is_file() for place in fetch.places()),
        reason="NiiVue was not fetched: python -m kits.batch.viewer.fetch",
    ),
]
SOFTWARE = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PATIENCE_MS = 120_000  # for a machine that is busy with other things


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Three cases: with tumour, without, and one of a hostile name; and one that failed."""
    folder = tmp_path_factory.mktemp("html")
    volume, labels = case()
    labels[10:14, 60:66, 84:92] = 3
    percent = np.stack([97 * (labels > 0), 80 * (labels == 2)]).astype(np.uint8)
    write_page(folder, "with tumour", volume, labels, measure(labels, volume.hu, volume.spacing, percent))
    healthy = np.minimum(labels, 1)
    write_page(folder, "healthy", volume, healthy, measure(healthy, volume.hu, volume.spacing))
    small = Volume.from_array(volume.hu[5:25], volume.spacing)
    write_page(
        folder, HOSTILE, small, labels[5:25], measure(labels[5:25], small.hu, small.spacing), ["A <b>warning</b>."]
    )
    write_index(folder, {"failed": "failed.nii.gz: is damaged; copy it again."})
    return folder, labels


@pytest.fixture(scope="module")
def browser():
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as driver:
        # No sandbox: as root, as in a container, chromium cannot start with one.
        started = driver.chromium.launch(executable_path=BROWSER, args=SOFTWARE, chromium_sandbox=False)
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page that knows no network and keeps what it complained of."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, offline=True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    tab.complaints = []
    tab.on("console", lambda message: message.type == "error" and tab.complaints.append(message.text))
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    yield tab
    context.close()


def open_case(tab, folder, name):
    tab.goto((folder / "cases" / f"{name}.html").as_uri(), timeout=PATIENCE_MS)
    tab.locator("html[data-ready=yes]").wait_for(state="attached")


def colours(tab, selector):
    """How often each colour occurs in what an element shows."""
    picture = Image.open(BytesIO(tab.locator(selector).screenshot())).convert("RGB")
    return Counter(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST).getdata())


def orange(colour):
    red, green, blue = colour
    return red > green + 40 and green > blue


def test_a_page_draws_and_tells_the_label_maps_numbers(tab, pages):
    folder, labels = pages
    open_case(tab, folder, "with tumour")
    slices, solid = colours(tab, "#slices"), colours(tab, "#solid")
    assert len(slices) > 100
    assert len(solid) > 30
    assert sum(n for colour, n in slices.items() if orange(colour)) > 50  # the tumour, to which it jumped
    assert sum(n for colour, n in solid.items() if orange(colour)) > 50
    cards = dict(zip(tab.locator(".card .title").all_inner_texts(), tab.locator(".card .value").all(), strict=True))
    ml = [np.count_nonzero(labels == label) * 0.003 for label in (2, 3)]
    for title, expected in zip(("Tumour", "Cyst"), ml, strict=True):
        assert float(cards[title].get_attribute("title").removesuffix(" ml")) == pytest.approx(expected)
    assert tab.locator(".lesion .volume").all_inner_texts() == [f"{one:.3f}".rstrip("0") + " ml" for one in ml]
    kidneys = [cards[f"Kidney, {side}"].get_attribute("title").removesuffix(" ml") for side in ("right", "left")]
    assert sum(map(float, kidneys)) == pytest.approx(np.count_nonzero(labels == 1) * 0.003)
    assert tab.complaints == []


def test_jumping_shows_the_lesion_and_keys_and_buttons_work(tab, pages):
    folder, _ = pages
    open_case(tab, folder, "with tumour")
    readout = tab.locator("#readout")
    playwright.expect(readout).to_contain_text("tumour")
    tab.locator("[data-lesion='cyst 1'] > button").click()
    playwright.expect(readout).to_contain_text("cyst")
    tab.keyboard.press("n")
    playwright.expect(readout).to_contain_text("tumour")
    hu = int(re.search(r"(-?\d+) HU", readout.inner_text())[1])
    assert 60 < hu < 120  # 90, and noise
    before = readout.inner_text()
    tab.keyboard.press("ArrowUp")
    playwright.expect(readout).not_to_have_text(before)
    tab.keyboard.press("a")  # the axial slice alone
    playwright.expect(tab.locator("#solid")).to_be_hidden()
    assert sum(n for colour, n in colours(tab, "#slices").items() if orange(colour)) > 50
    tab.keyboard.press("m")
    assert sum(n for colour, n in colours(tab, "#slices").items() if orange(colour)) < 20
    tab.locator("#layouts button", has_text="3-D").click()
    playwright.expect(tab.locator("#slices")).to_be_hidden()
    tab.keyboard.press("t")  # the tumour's surface goes
    assert sum(n for colour, n in colours(tab, "#solid").items() if orange(colour)) < 20
    tab.keyboard.press("?")
    playwright.expect(tab.locator("#help")).to_be_visible()
    assert tab.complaints == []


def test_a_hostile_name_is_only_text(tab, pages):
    folder, _ = pages
    tab.on("dialog", lambda dialog: pytest.fail(dialog.message))
    tab.goto((folder / "index.html").as_uri())
    tab.locator("#cases a", has_text="onerror").click()
    tab.locator("html[data-ready=yes]").wait_for(state="attached")
    assert tab.locator("#name").inner_text() == HOSTILE
    assert tab.locator("#warnings").inner_text() == "A <b>warning</b>."
    assert tab.complaints == []


def test_the_index_sorts_and_filters(tab, pages):
    folder, _ = pages
    tab.goto((folder / "index.html").as_uri())
    names = tab.locator("#cases tbody td:nth-child(2)")
    assert names.all_inner_texts() == ["failed", "healthy", "with tumour", HOSTILE]
    tab.locator("#cases thead button", has_text="Tumour").click()
    assert names.all_inner_texts()[-2:] == ["healthy", "failed"]  # what has no number comes last
    tab.locator("#cases thead button", has_text="Tumour").click()
    assert names.all_inner_texts()[0] == "healthy"
    tab.locator("#warned").check()
    assert sorted(names.all_inner_texts()) == ["failed", HOSTILE]
    tab.locator("button[type=reset]").click()
    playwright.expect(names).to_have_count(4)
    tab.locator("#tumour").fill("1")
    assert sorted(names.all_inner_texts()) == ["with tumour", HOSTILE]
    tab.locator("#tumour").fill("")
    tab.locator("#confidence").fill("0.9")
    assert names.all_inner_texts() == ["with tumour"]
    tab.locator("#confidence").fill("")
    tab.keyboard.press("/")
    tab.locator("#text").fill("heal")
    assert names.all_inner_texts() == ["healthy"]
    assert tab.locator("#cases img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
    assert tab.complaints == []
