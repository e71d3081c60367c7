"""Scans and results on an S3 server of this machine and on a web server: what fails there costs the case alone."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.command import main
from kits.batch.record import FOLDER
from kits.cascade.cascade import Cascade
from kits.cohort.records import main as manifest
from kits.io.stores import transfer
from kits.io.stores.transfer import StoreError, fetch, send
from kits.io.stores.url import Url
from test.helpers.store import KEYS, Road, s3_server
from test.helpers.threshold import phantom, threshold_cascade

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'kits-cascade[cohort]')")
pytest.importorskip("moto", reason="moto is not installed")
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--device", "cpu", "--engine", "torch", "--precision", "fp32", "--mode", "paper"]
SMALL = """
from kits.batch.command import main
from kits.cascade.cascade import Cascade
from test.helpers.threshold import threshold_cascade
Cascade.load = lambda *_: threshold_cascade("paper")
main()
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small scans in the forms that folders have, one of them damaged."""
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(("a.nii.gz", "case_00007/imaging.nii.gz", "deep/b.mha", "c.mhd")):
        hu, _ = phantom(shape=(12, 96, 128), radius_mm=(16.0, 13.0, 13.0), tumour_mm=5.0 + number)
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        (folder / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(image, str(folder / name))
    (folder / "damaged.nii.gz").write_bytes(b"no scan")
    return folder


NAMES = {"a.nii.gz", "prediction_00007.nii.gz", "deep.nii.gz", "c.nii.gz"}


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    """Networks that take no time: here it is about files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cascade, "load", lambda *_: threshold_cascade("paper"))
        yield


@pytest.fixture(scope="module")
def segment(threshold_weights: Path) -> Callable[..., int]:
    def run(source: str | Path, out: str | Path, *options: str) -> int:
        return main(["--input", str(source), "--output", str(out), "--weights", str(threshold_weights),
                     *OPTIONS, *options])  # fmt: skip

    return run


@pytest.fixture(scope="module")
def here(scans: Path, segment: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of the same scans by a run without a store."""
    out = tmp_path_factory.mktemp("here")
    assert segment(scans, out) == 1
    assert {path.name for path in out.glob("*.nii.gz")} == NAMES
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch):
    """The file system of the server with the bucket ``scans``, empty; variables name it to all processes."""
    import s3fs

    for name, value in (KEYS | {"AWS_ENDPOINT_URL": server}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "WAITS_SECONDS", (0.1, 0.2))
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(use_listings_cache=False)
    if system.exists("scans"):
        system.rm("scans", recursive=True)
    system.mkdir("scans")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def assert_same(s3, folder: str, here: Path, tmp_path: Path, names: set[str] = NAMES) -> None:
    """What a store holds of label maps is what a run without one gives."""
    found = {Path(name).name for name in s3.ls(folder, detail=False) if name.endswith(".nii.gz")}
    assert found == names
    for name in names:
        s3.get_file(f"{folder}/{name}", tmp_path / name)
        assert np.array_equal(array(tmp_path / name), array(here / name)), name


def report_of(s3, name: str) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(s3.cat_file(name))}


def test_a_folder_of_a_store_gives_what_a_folder_here_gives(s3, scans, here, segment, tmp_path, capfd) -> None:
    s3.put(f"{scans}/", "scans/in/", recursive=True)
    out = ("s3://scans/in", "s3://scans/in/out", "--report=s3://scans/report.json", "--save-probabilities", "--colours")
    assert segment(*out) == 1
    said = capfd.readouterr().err
    assert "s3://scans/in/damaged.nii.gz" in said
    assert "kits-cascade-" not in said, "a temporary path means nothing to anybody"
    assert_same(s3, "scans/in/out", here, tmp_path)
    assert s3.exists("scans/in/out/probabilities/a_kidney_percent.nii.gz")
    assert s3.exists("scans/in/out/labels.ctbl")
    report = report_of(s3, "scans/report.json")
    assert {name for name, one in report.items() if one["status"] == "done"} == {"a", "case_00007", "deep", "c"}
    assert report["a"]["source"] == "s3://scans/in/a.nii.gz"
    assert manifest(["s3://scans/in/out"]) == 0
    assert len(s3.cat_file("scans/in/out/manifest.jsonl").splitlines()) == 4

    before = {name: info["LastModified"] for name, info in s3.find("scans/in/out", detail=True).items()}
    assert segment(*out, "--skip-existing") == 1
    report = report_of(s3, "scans/report.json")
    assert {name for name, one in report.items() if one["status"] == "skipped"} == {"a", "case_00007", "deep", "c"}
    after = {name: info["LastModified"] for name, info in s3.find("scans/in/out", detail=True).items()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"scans/in/out/labels.ctbl", "scans/in/out/labels.itksnap.txt"}


def test_what_did_not_change_on_its_store_is_not_fetched_to_resume_and_what_did_is_done_again(
    s3, scans, here, segment, tmp_path, monkeypatch
) -> None:
    s3.put_file(scans / "a.nii.gz", "scans/in/a.nii.gz")
    s3.put_file(scans / "deep/b.mha", "scans/in/b.mha")
    assert segment("s3://scans/in", tmp_path / "out") == 0
    fetched: list[str] = []

    def noted(files, sizes=()) -> None:
        fetched.extend(url.name for url in files)
        fetch(files, sizes)

    monkeypatch.setattr("kits.io.stores.scan.fetch", noted)
    image = sitk.ReadImage(str(scans / "deep/b.mha"))
    sitk.WriteImage(image + 1, str(tmp_path / "b.mha"))
    s3.put_file(tmp_path / "b.mha", "scans/in/b.mha")
    report = tmp_path / "report.json"
    assert segment("s3://scans/in", tmp_path / "out", "--skip-existing", f"--report={report}") == 0
    assert {one["name"]: one["status"] for one in json.loads(report.read_text())} == {"a": "skipped", "b": "done"}
    assert fetched == ["b.mha"]


def test_dicom_slices_of_a_store_are_a_case_and_their_objects_go_there(s3, segment, tmp_path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from test.helpers.scans import write_series

    hu, _ = phantom(shape=(12, 96, 128), radius_mm=(16.0, 13.0, 13.0))
    uids = {"FrameOfReferenceUID": "1.2.3", "StudyInstanceUID": "1.2.4", "StudyID": "", "PatientBirthDate": ""}
    write_series(tmp_path / "patient", hu, change=lambda _: uids)
    s3.put(f"{tmp_path}/patient/", "scans/in/patient/", recursive=True)
    assert segment("s3://scans/in", "s3://scans/out", "--dicom=seg") == 0
    assert s3.exists("scans/out/patient.nii.gz")
    assert s3.exists("scans/out/dicom/patient.seg.dcm")


def test_an_upload_that_is_cut_off_leaves_no_result_and_costs_no_other_case(
    s3, server, scans, here, segment, tmp_path, monkeypatch, capfd
) -> None:
    import s3fs

    for name in ("a.nii.gz", "deep/b.mha"):
        s3.put_file(scans / name, f"scans/in/{name}")
    road = Road(server, b"PUT /scans/out/a.nii.gz ")
    monkeypatch.setenv("AWS_ENDPOINT_URL", road.address)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    assert segment("s3://scans/in", "s3://scans/out", "--report=s3://scans/report.json") == 1
    assert road.broken.is_set()
    assert "s3://scans/out/a.nii.gz: the store cannot be used" in capfd.readouterr().err
    assert not s3.exists("scans/out/a.nii.gz")
    assert not s3.exists(f"scans/out/{FOLDER}/a.nii.gz.json")
    assert {name: one["status"] for name, one in report_of(s3, "scans/report.json").items()} == {
        "a": "failed",
        "deep": "done",
    }
    road.left = 0
    assert segment("s3://scans/in", "s3://scans/out", "--report=s3://scans/report.json", "--skip-existing") == 0
    assert_same(s3, "scans/out", here, tmp_path, {"a.nii.gz", "deep.nii.gz"})
    assert {name: one["status"] for name, one in report_of(s3, "scans/report.json").items()} == {
        "a": "done",
        "deep": "skipped",
    }
    road.close()


def test_an_upload_that_is_cut_off_once_is_tried_again(s3, server, scans, segment, monkeypatch) -> None:
    import s3fs

    s3.put_file(scans / "a.nii.gz", "scans/in/a.nii.gz")
    road = Road(server, b"PUT /scans/out/a.nii.gz ", times=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", road.address)
    s3fs.S3FileSystem.clear_instance_cache()
    assert segment("s3://scans/in", "s3://scans/out") == 0
    assert road.broken.is_set()
    assert s3.exists("scans/out/a.nii.gz")
    road.close()


def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_result(
    s3, server, scans, here, segment, threshold_weights, tmp_path
) -> None:
    s3.put_file(scans / "a.nii.gz", "scans/in/a.nii.gz")
    road = Road(server, b"PUT /scans/out/a.nii.gz ", holds=True)
    (tmp_path / "tmp").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", SMALL, "--input=s3://scans/in", "--output=s3://scans/out",
         "--weights", threshold_weights, *OPTIONS],
        cwd=ROOT, env=os.environ | {"AWS_ENDPOINT_URL": road.address, "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert road.broken.wait(120)
    run.send_signal(signal.SIGKILL)
    run.wait()
    road.close()
    assert not s3.exists("scans/out/a.nii.gz")
    assert list((tmp_path / "tmp").glob("kits-cascade-*"))
    assert segment("s3://scans/in", "s3://scans/out", "--skip-existing") == 0
    assert_same(s3, "scans/out", here, tmp_path, {"a.nii.gz"})


def test_a_multipart_upload_that_does_not_end_is_no_file(s3, server, tmp_path, monkeypatch) -> None:
    import s3fs

    with (tmp_path / "large.nii.gz").open("wb") as file:
        file.truncate(101 << 20)
    road = Road(server, b"partNumber=2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", road.address)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(transfer, "WAITS_SECONDS", ())
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"s3://scans/large.nii.gz: the store cannot be used"):
        send(tmp_path / "large.nii.gz", Url("s3://scans/large.nii.gz"))
    assert road.broken.is_set()
    assert not s3.exists("scans/large.nii.gz")
    road.close()


def test_a_store_without_whole_uploads_gets_a_hidden_name_first(tmp_path, monkeypatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put = MemoryFileSystem.put_file

    def half(self, path, place, **more) -> None:
        put(self, path, place, **more)
        self.pipe_file(place, self.cat_file(place)[:3])

    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(transfer, "WAITS_SECONDS", ())
    monkeypatch.setattr(MemoryFileSystem, "put_file", half)
    with pytest.raises(StoreError, match="3 of 10 bytes arrived"):
        send(tmp_path / "a", Url("memory://folder/a"))
    assert MemoryFileSystem().find("/folder") == []
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    send(tmp_path / "a", Url("memory://folder/a"))
    assert MemoryFileSystem().find("/folder") == ["/folder/a"]


@pytest.fixture
def web(scans: Path) -> Iterator[str]:
    """A web server that shows the scans' folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(scans))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_a_list_names_scans_of_web_servers_and_of_this_machine(web, scans, here, segment, tmp_path, capfd) -> None:
    table = tmp_path / "list.csv"
    table.write_text(
        f"source,name\n{web}/a.nii.gz?signature=secret,\n{web}/deep/b.mha,deep\n{scans / 'case_00007'},\n"
        f"{web}/nowhere.nii.gz,\nabsent.nii.gz,\n"
    )
    out = tmp_path / "out"
    assert segment(table, out, f"--report={out / 'report.json'}") == 1
    said = capfd.readouterr().err
    assert f"{web}/nowhere.nii.gz: is not there" in said
    assert "line 6: " in said
    assert "secret" not in said + (out / "report.json").read_text()
    for name in ("a.nii.gz", "deep.nii.gz", "prediction_00007.nii.gz"):
        assert np.array_equal(array(out / name), array(here / name))


def test_the_index_page_of_a_web_server_is_a_folder(web, here, segment, tmp_path) -> None:
    assert segment(f"{web}/", tmp_path) == 1  # one is damaged
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == NAMES
    assert np.array_equal(array(tmp_path / "c.nii.gz"), array(here / "c.nii.gz"))


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("s3://nowhere/in", "{tmp}", "s3://nowhere/in: is not there; check bucket, folder and name."),
        ("s3://scans/nothing", "{tmp}", "s3://scans/nothing: is not there"),
        ("{scans}", "s3://nowhere/out", "is not there; check bucket"),
        ("{scans}", "http://127.0.0.1/out", "nothing is written to web servers"),
        ("foo://a/b", "{tmp}", "no store is known by foo://"),
        ("gs://bucket/in", "{tmp}", "run `pip install gcsfs`"),
        ("s3://scans", "s3://scans", "is the input folder too"),
    ],
)
def test_a_wrong_url_is_one_sentence(s3, scans, segment, tmp_path, capfd, source, out, sentence) -> None:
    if source.startswith("gs:") and find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    names = {"tmp": tmp_path, "scans": scans}
    if source == "s3://scans":
        s3.put_file(scans / "a.nii.gz", "scans/a.nii.gz")
    assert segment(source.format(**names), out.format(**names)) == 2
    said = capfd.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_missing_credentials_are_one_sentence(s3, segment, tmp_path, monkeypatch, capfd) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    assert segment("s3://scans/in", tmp_path) == 2
    assert "the store refuses" in capfd.readouterr().err


def test_a_label_map_that_cannot_be_made_again_is_set_aside_on_the_store(s3, scans, segment, tmp_path) -> None:
    s3.put_file(scans / "a.nii.gz", "scans/in/a.nii.gz")
    assert segment("s3://scans/in", "s3://scans/out") == 0
    s3.pipe_file("scans/in/a.nii.gz", b"damaged now")
    assert segment("s3://scans/in", "s3://scans/out", "--skip-existing", "--report=s3://scans/report.json") == 1
    names = {Path(name).name for name in s3.find("scans/out")}
    assert names == {"a.stale.nii.gz"}
    assert "is now s3://scans/out/a.stale.nii.gz" in report_of(s3, "scans/report.json")["a"]["error"]


def test_keys_that_would_lead_out_of_the_folder_are_left_out(s3, scans, segment, tmp_path) -> None:
    s3.put_file(scans / "a.nii.gz", "scans/in/a.nii.gz")
    s3.pipe_file("scans/in/../../escaped.nii.gz", b"x")
    assert transfer.below(Url("s3://scans/in")).keys() == {PurePosixPath("a.nii.gz")}


def test_workers_of_a_cluster_and_shards_read_and_write_the_store(
    s3, scans, threshold_weights, segment, tmp_path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    for name in ("a.nii.gz", "deep/b.mha"):
        s3.put_file(scans / name, f"scans/in/{name}")
    command = [sys.executable, ROOT / "process.py", "--input=s3://scans/in", "--output=s3://scans/out",
               "--weights", threshold_weights, *OPTIONS, "--ray", "--worker-cores=2"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    found = {name: info["ETag"] for name, info in s3.find("scans/out", detail=True).items()}
    assert {Path(name).name for name in found if name.endswith(".gz")} == {"a.nii.gz", "deep.nii.gz"}
    for share in ("1/2", "2/2"):
        assert segment("s3://scans/in", "s3://scans/out", f"--shard={share}", "--skip-existing") == 0
    assert {name: info["ETag"] for name, info in s3.find("scans/out", detail=True).items()} == found
