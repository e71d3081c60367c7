"""Uploads that do not come to their end: no part of one is ever a result, and another case pays nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kits.batch.record import FOLDER
from kits.io.stores import transfer
from kits.io.stores.transfer import StoreError, send
from kits.io.stores.url import Url
from test.cohort.conftest import OPTIONS
from test.helpers.store import PART_BYTES, Road, Store
from test.helpers.threshold import labels_in

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
from kits.batch.command import main
from kits.cascade.cascade import Cascade
from test.helpers.threshold import threshold_cascade
Cascade.load = lambda *_: threshold_cascade("paper")
main()
"""


def road_to(store: Store, place: str, **more) -> Road:
    """A road by which a file's upload does not arrive."""
    road = Road(store.address, store.upload.format(place).encode(), **more)
    store.go_by(road)
    return road


def same(store: Store, here: Path, tmp_path: Path, name: str) -> bool:
    """Whether a label map on the store is that of a run without one."""
    (tmp_path / name).write_bytes(store.read(f"out/{name}"))
    return np.array_equal(labels_in(tmp_path / name), labels_in(here / name))


def statuses(store: Store) -> dict[str, str]:
    return {one["name"]: one["status"] for one in json.loads(store.read("report.json"))}


def test_an_upload_that_is_cut_off_leaves_no_result_and_costs_no_other_case(
    store, forms, here, segment, tmp_path, monkeypatch, capfd
) -> None:
    store.put(forms / "a.nii.gz", "in/a.nii.gz")
    store.put(forms / "deep/b.mha", "in/deep/b.mha")
    run = (f"{store.url}/in", f"{store.url}/out", f"--report={store.url}/report.json")
    store.impatient(monkeypatch)
    road = road_to(store, "out/a.nii.gz")
    assert segment(*run) == 1
    assert road.broken.is_set()
    said = capfd.readouterr().err
    assert f"{store.url}/out/a.nii.gz: the store cannot be used" in said
    assert "Traceback" not in said
    assert not store.exists("out/a.nii.gz")
    assert not store.exists(f"out/{FOLDER}/a.nii.gz.json")
    assert statuses(store) == {"a": "failed", "deep": "done"}
    road.left = 0
    assert segment(*run, "--skip-existing") == 0
    assert same(store, here, tmp_path, "a.nii.gz")
    assert same(store, here, tmp_path, "deep.nii.gz")
    assert statuses(store) == {"a": "done", "deep": "skipped"}
    road.close()


def test_an_upload_that_is_cut_off_once_is_tried_again(store, forms, segment) -> None:
    store.put(forms / "a.nii.gz", "in/a.nii.gz")
    road = road_to(store, "out/a.nii.gz", times=1)
    assert segment(f"{store.url}/in", f"{store.url}/out") == 0
    assert road.broken.is_set()
    assert store.exists("out/a.nii.gz")
    road.close()


def test_a_process_killed_in_the_middle_of_an_upload_leaves_no_result(
    store, forms, here, segment, threshold_weights, tmp_path
) -> None:
    store.put(forms / "a.nii.gz", "in/a.nii.gz")
    road = road_to(store, "out/a.nii.gz", holds=True)
    (tmp_path / "tmp").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", SMALL, f"--input={store.url}/in", f"--output={store.url}/out",
         "--weights", threshold_weights, *OPTIONS],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert road.broken.wait(600)
    run.send_signal(signal.SIGKILL)
    run.wait()
    road.close()
    assert not store.exists("out/a.nii.gz")
    assert list((tmp_path / "tmp").glob("kits-cascade-*"))
    store.go_by(store)
    assert segment(f"{store.url}/in", f"{store.url}/out", "--skip-existing") == 0
    assert same(store, here, tmp_path, "a.nii.gz")


def test_an_upload_in_parts_that_does_not_end_is_no_file(store, tmp_path, monkeypatch) -> None:
    with (tmp_path / "large.nii.gz").open("wb") as file:
        file.truncate(2 * PART_BYTES + 1)
    store.impatient(monkeypatch)
    monkeypatch.setattr(transfer, "WAITS_SECONDS", ())
    road = Road(store.address, store.second_part)
    store.go_by(road)
    with pytest.raises(StoreError, match=rf"{store.url}/large.nii.gz: the store cannot be used"):
        send(tmp_path / "large.nii.gz", Url(f"{store.url}/large.nii.gz"))
    assert road.broken.is_set()
    assert not store.exists("large.nii.gz")
    road.left = 0
    send(tmp_path / "large.nii.gz", Url(f"{store.url}/large.nii.gz"))
    assert store.exists("large.nii.gz")
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
