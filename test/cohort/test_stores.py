"""Scans and results on object stores of this machine and on a web server: what fails there costs the case alone."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import SimpleITK as sitk

from kits.cohort.records import main as manifest
from kits.io.stores import transfer
from kits.io.stores.transfer import fetch
from kits.io.stores.url import Url
from test.cohort.conftest import NAMES, OPTIONS
from test.helpers.store import BUCKET, Store, google_by
from test.helpers.threshold import labels_in, phantom

ROOT = Path(__file__).resolve().parents[2]


def assert_same(store: Store, folder: str, here: Path, tmp_path: Path, names: set[str] = NAMES) -> None:
    """What a store holds of label maps is what a run without one gives."""
    assert {name for name in store.stamps(folder) if name.endswith(".nii.gz") and "/" not in name} == names
    for name in names:
        (tmp_path / name).write_bytes(store.read(f"{folder}/{name}"))
        assert np.array_equal(labels_in(tmp_path / name), labels_in(here / name)), name


def report_of(store: Store, name: str = "report.json") -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(store.read(name))}


def test_a_folder_of_a_store_gives_what_a_folder_here_gives(store, forms, here, segment, tmp_path, capfd) -> None:
    store.system.put(f"{forms}/", f"{BUCKET}/in/", recursive=True)
    source, out = f"{store.url}/in", f"{store.url}/in/out"
    options = (f"--report={store.url}/report.json", "--save-probabilities", "--colours")
    assert segment(source, out, *options) == 1
    said = capfd.readouterr().err
    assert f"{store.url}/in/damaged.nii.gz" in said
    assert "kits-cascade-" not in said, "a temporary path means nothing to anybody"
    assert_same(store, "in/out", here, tmp_path)
    assert store.exists("in/out/probabilities/a_kidney_percent.nii.gz")
    assert store.exists("in/out/labels.ctbl")
    report = report_of(store)
    assert {name for name, one in report.items() if one["status"] == "done"} == {"a", "case_00007", "deep", "c"}
    assert report["a"]["source"] == f"{store.url}/in/a.nii.gz"
    assert manifest([out]) == 0
    assert len(store.read("in/out/manifest.jsonl").splitlines()) == 4

    before = store.stamps("in/out")
    assert segment(source, out, *options, "--skip-existing") == 1
    report = report_of(store)
    assert {name for name, one in report.items() if one["status"] == "skipped"} == {"a", "case_00007", "deep", "c"}
    after = store.stamps("in/out")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"labels.ctbl", "labels.itksnap.txt"}


def test_what_did_not_change_on_its_store_is_not_fetched_to_resume_and_what_did_is_done_again(
    store, forms, segment, tmp_path, monkeypatch
) -> None:
    store.put(forms / "a.nii.gz", "in/a.nii.gz")
    store.put(forms / "deep/b.mha", "in/b.mha")
    source = f"{store.url}/in"
    assert segment(source, tmp_path / "out") == 0
    fetched: list[str] = []

    def noted(files, sizes=()) -> None:
        fetched.extend(url.name for url in files)
        fetch(files, sizes)

    monkeypatch.setattr("kits.io.stores.scan.fetch", noted)
    image = sitk.ReadImage(str(forms / "deep/b.mha"))
    sitk.WriteImage(image + 1, str(tmp_path / "b.mha"))
    store.put(tmp_path / "b.mha", "in/b.mha")
    report = tmp_path / "report.json"
    assert segment(source, tmp_path / "out", "--skip-existing", f"--report={report}") == 0
    assert {one["name"]: one["status"] for one in json.loads(report.read_text())} == {"a": "skipped", "b": "done"}
    assert fetched == ["b.mha"]


def test_dicom_slices_of_a_store_are_a_case_and_their_objects_go_there(store, segment, tmp_path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from test.helpers.scans import write_series

    hu, _ = phantom(shape=(12, 96, 128), radius_mm=(16.0, 13.0, 13.0))
    uids = {"FrameOfReferenceUID": "1.2.3", "StudyInstanceUID": "1.2.4", "StudyID": "", "PatientBirthDate": ""}
    write_series(tmp_path / "patient", hu, change=lambda _: uids)
    store.system.put(f"{tmp_path}/patient/", f"{BUCKET}/in/patient/", recursive=True)
    assert segment(f"{store.url}/in", f"{store.url}/out", "--dicom=seg") == 0
    assert store.exists("out/patient.nii.gz")
    assert store.exists("out/dicom/patient.seg.dcm")


@contextmanager
def serving(handler) -> Iterator[str]:
    """A web server on loopback; gives its address."""

    class Silent(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of clients that hang up."""

    with Silent(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def web(forms: Path) -> Iterator[str]:
    """A web server that shows the scans' folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(functools.partial(Quiet, directory=str(forms))) as address:
        yield address


def test_a_list_names_scans_of_web_servers_and_of_this_machine(web, forms, here, segment, tmp_path, capfd) -> None:
    table = tmp_path / "list.csv"
    table.write_text(
        f"source,name\n{web}/a.nii.gz?signature=secret,\n{web}/deep/b.mha,deep\n{forms / 'case_00007'},\n"
        f"{web}/nowhere.nii.gz,\nabsent.nii.gz,\n"
    )
    out = tmp_path / "out"
    assert segment(table, out, f"--report={out / 'report.json'}") == 1
    said = capfd.readouterr().err
    assert f"{web}/nowhere.nii.gz: is not there" in said
    assert "line 6: " in said
    assert "secret" not in said + (out / "report.json").read_text()
    for name in ("a.nii.gz", "deep.nii.gz", "prediction_00007.nii.gz"):
        assert np.array_equal(labels_in(out / name), labels_in(here / name))


def test_the_index_page_of_a_web_server_is_a_folder(web, here, segment, tmp_path) -> None:
    assert segment(f"{web}/", tmp_path) == 1  # one is damaged
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == NAMES
    assert np.array_equal(labels_in(tmp_path / "c.nii.gz"), labels_in(here / "c.nii.gz"))


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("{store}-nowhere/in", "{tmp}", "{store}-nowhere/in: is not there; check bucket, folder and name."),
        ("{store}/nothing", "{tmp}", "{store}/nothing: is not there"),
        ("{forms}", "{store}-nowhere/out", "is not there; check bucket"),
        ("{store}", "{store}", "is the input folder too"),
    ],
)
def test_a_wrong_bucket_or_folder_is_one_sentence(
    store, forms, segment, tmp_path, capfd, source, out, sentence
) -> None:
    names = {"tmp": tmp_path, "forms": forms, "store": store.url}
    if source == out:
        store.put(forms / "a.nii.gz", "a.nii.gz")
    assert segment(source.format(**names), out.format(**names)) == 2
    said = capfd.readouterr().err
    assert sentence.format(**names) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("{forms}", "http://127.0.0.1/out", "nothing is written to web servers"),
        ("foo://a/b", "{tmp}", "no store is known by foo://"),
        ("hdfs://host/in", "{tmp}", "hdfs://host/in: "),  # which takes Java
        ("abfs://container/in", "{tmp}", "run `pip install adlfs`"),
    ],
)
def test_what_is_no_store_is_one_sentence(forms, segment, tmp_path, capfd, source, out, sentence) -> None:
    if source.startswith("abfs:") and find_spec("adlfs"):
        pytest.skip("adlfs is installed")
    names = {"tmp": tmp_path, "forms": forms}
    assert segment(source.format(**names), out.format(**names)) == 2
    said = capfd.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_missing_credentials_are_one_sentence(s3, segment, tmp_path, monkeypatch, capfd) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3.go_by(s3)
    assert segment("s3://scans/in", tmp_path) == 2
    said = capfd.readouterr().err
    assert "the store refuses" in said
    assert "AWS_ACCESS_KEY_ID" in said


@pytest.mark.parametrize("status", [401, 403])
def test_what_google_refuses_is_one_sentence_at_once(google, status, segment, tmp_path, monkeypatch, capfd) -> None:
    asked = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = json.dumps({"error": {"code": status, "message": "no access to the object"}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Refusing) as address:
        google_by(address, monkeypatch)
        assert segment("gs://scans/in", tmp_path) == 2
    said = capfd.readouterr().err
    assert "gs://scans/in: the store refuses" in said
    assert "GOOGLE_APPLICATION_CREDENTIALS" in said
    assert "Traceback" not in said
    assert len(asked) < 6, "it was asked again and again"


def test_a_label_map_that_cannot_be_made_again_is_set_aside_on_the_store(store, forms, segment) -> None:
    store.put(forms / "a.nii.gz", "in/a.nii.gz")
    source, out = f"{store.url}/in", f"{store.url}/out"
    assert segment(source, out) == 0
    store.system.pipe_file(f"{BUCKET}/in/a.nii.gz", b"damaged now")
    assert segment(source, out, "--skip-existing", f"--report={store.url}/report.json") == 1
    assert store.stamps("out").keys() == {"a.stale.nii.gz"}
    assert f"is now {out}/a.stale.nii.gz" in report_of(store)["a"]["error"]


def test_keys_that_would_lead_out_of_the_folder_are_left_out(s3, forms) -> None:
    s3.put(forms / "a.nii.gz", "in/a.nii.gz")
    s3.system.pipe_file("scans/in/../../escaped.nii.gz", b"x")
    assert transfer.below(Url("s3://scans/in")).keys() == {PurePosixPath("a.nii.gz")}


def test_workers_of_a_cluster_and_shards_read_and_write_the_store(s3, forms, threshold_weights, segment) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    s3.put(forms / "a.nii.gz", "in/a.nii.gz")
    s3.put(forms / "deep/b.mha", "in/deep/b.mha")
    command = [sys.executable, ROOT / "process.py", "--input=s3://scans/in", "--output=s3://scans/out",
               "--weights", threshold_weights, *OPTIONS, "--ray", "--worker-cores=2"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr
    found = s3.stamps("out")
    assert {name for name in found if name.endswith(".gz")} == {"a.nii.gz", "deep.nii.gz"}
    for share in ("1/2", "2/2"):
        assert segment("s3://scans/in", "s3://scans/out", f"--shard={share}", "--skip-existing") == 0
    assert s3.stamps("out") == found
