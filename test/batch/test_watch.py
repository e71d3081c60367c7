"""A run that must end early keeps what is finished; a scan that cannot fit is refused before it is read."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.report import Outputs
from kits.batch.run import run
from kits.batch.watch import Stopped, Watch
from kits.cascade.cascade import Prediction
from kits.errors import InputError
from kits.io.cases import Case, find_cases
from kits.io.images import count_voxels
from kits.runtime import memory
from kits.runtime.memory import check_memory, memory_limit
from test.helpers.trouble import make_trouble


class Empty:
    """Stands in for the cascade: finds nothing, after doing something halfway."""

    def __init__(self, halfway):
        self.halfway = halfway

    def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
        self.halfway(volume.name)
        progress(0.5)
        progress(1.0)
        return Prediction(np.zeros(volume.hu.shape, np.uint8), [])


@pytest.fixture
def scans(tmp_path, make_ct):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in "abc":
        sitk.WriteImage(sitk.GetImageFromArray(make_ct((4, 32, 32))), str(folder / f"{name}.nii.gz"))
    return folder


def end_on_b(name):
    if name == "b":
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_ends_the_run_with_what_is_finished(scans, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report.json"
    watch = Watch()
    with watch.listening():
        reports = run(find_cases(scans), Empty(end_on_b), Outputs(out, report=report), watch)
    assert [one.status for one in reports] == ["done", "not reached", "not reached"]
    assert reports[1].error == reports[2].error == "The run was told to end (SIGTERM)"
    assert [path.name for path in out.iterdir()] == ["a.nii.gz"]
    assert [one["status"] for one in json.loads(report.read_text())] == [one.status for one in reports]


def test_a_case_that_is_finished_when_the_end_comes_is_written(scans, tmp_path):
    watch = Watch()

    class Late(Empty):
        def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
            watch.received = "SIGTERM"
            progress(1.0)
            return Prediction(np.zeros(volume.hu.shape, np.uint8), [])

    reports = run(find_cases(scans), Late(None), Outputs(tmp_path / "out"), watch)
    assert [one.status for one in reports] == ["done", "not reached", "not reached"]


def test_the_time_limit_ends_the_run(scans, tmp_path):
    reports = run(find_cases(scans), Empty(lambda name: None), Outputs(tmp_path / "out"), Watch(seconds=0))
    assert {one.status for one in reports} == {"not reached"}
    assert reports[0].error == "The time limit of 0 s was reached"


def test_signals_are_heeded_only_inside_and_the_second_one_is_not_caught():
    before = signal.getsignal(signal.SIGTERM)
    watch = Watch()
    watch.check()
    with watch.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            watch.check()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_scan_that_cannot_fit_is_refused_with_both_numbers(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 500_000_000)
    with pytest.raises(InputError, match=r"a\.nii\.gz: needs about 1\.6 GB of memory, but only 0\.5 GB"):
        check_memory(find_cases(scans)[0])
    reports = run(find_cases(scans), Empty(lambda name: None), Outputs(tmp_path / "out"))
    assert {one.status for one in reports} == {"failed"}


def test_a_scan_that_fits_is_let_through(scans):
    check_memory(find_cases(scans)[0])


@pytest.mark.parametrize(
    ("text", "expected"), [("123456789\n", 123456789), ("max\n", None), ("9223372036854771712", None)]
)
def test_the_container_s_limit_counts_unless_there_is_none(tmp_path, monkeypatch, text, expected):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "not there"))
    if expected:
        assert memory_limit() == expected
    else:
        assert 10**8 < memory_limit() < 10**14


def test_voxels_are_counted_by_the_header(scans, tmp_path):
    assert count_voxels(find_cases(scans)[0]) == 4 * 32 * 32
    (tmp_path / "text.nii.gz").write_text("no volume")
    assert count_voxels(Case("text", tmp_path / "text.nii.gz", "text.nii.gz")) == 0
    assert count_voxels(Case("none", tmp_path / "none", "none.nii.gz")) == 0


def test_freed_memory_goes_back_to_the_system_even_between_blocks_in_use():
    """In a process of its own, whose every fiftieth block of 50 kB stays in use."""
    code = """
import ctypes, sys
from pathlib import Path
from kits.runtime.memory import return_memory
if not hasattr(ctypes.CDLL(None), "malloc_trim"):
    sys.exit("no glibc")
def held():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
blocks = [bytes([1]) * 50_000 for _ in range(4000)]
kept = blocks[::50]
del blocks
before = held()
return_memory()
print(before - held())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("another C library than glibc")
    assert float(done.stdout) > 100, done.stderr  # MB, of 191


def test_memory_that_is_kept_is_not_asked_of_the_system_again():
    """In a process of its own, which counts the pages that it is given while it fills 64 MB ten times."""
    code = """
import ctypes, resource, sys
import numpy as np
from kits.runtime.memory import keep_memory
if not hasattr(ctypes.CDLL(None), "mallopt"):
    sys.exit("no glibc")
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
mapped = pages()
keep_memory()
pages()  # fetches what is then kept
print(mapped / max(pages(), 1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("another C library than glibc")
    assert float(done.stdout) > 5, done.stderr


def test_threads_share_one_heap():
    """In a process of its own, which tells its heaps before and after two threads ask for memory."""
    code = """
import ctypes, sys, threading
from kits.runtime.memory import share_memory
c = ctypes.CDLL(None)
if not hasattr(c, "malloc_stats"):
    sys.exit("no glibc")
if "share" in sys.argv:
    share_memory()
for _ in range(2):
    c.malloc_stats()
    sys.stderr.write("then ")
    sys.stderr.flush()
    threads = [threading.Thread(target=c.malloc, args=(1000,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
    new = {}
    for how in ("share", "apart"):
        said = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True).stderr
        if "no glibc" in said:
            pytest.skip("another C library than glibc")
        before, after, _ = (part.count("Arena ") for part in said.split("then "))
        new[how] = after - before
    assert new["share"] == 0
    assert new["apart"] > 0


def test_the_time_limit_ends_a_reading_that_hangs(scans, tmp_path, monkeypatch):
    make_trouble(tmp_path, monkeypatch)
    (scans / "a.nii.gz").rename(scans / "a_hang.nii.gz")
    reports = run(find_cases(scans), Empty(lambda name: None), Outputs(tmp_path / "out"), Watch(seconds=2))
    assert {one.status for one in reports} == {"not reached"}
