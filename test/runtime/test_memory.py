"""The memory that there is: a scan that cannot fit is refused before it is read, and what is freed goes back."""

import subprocess
import sys

import pytest
import SimpleITK as sitk

from kits.errors import InputError
from kits.io.cases import Case, find_cases
from kits.io.images import count_voxels
from kits.runtime import memory
from kits.runtime.memory import cgroup_limits, check_memory, memory_limit


@pytest.fixture
def scans(tmp_path, make_ct):
    folder = tmp_path / "scans"
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(make_ct((4, 32, 32))), str(folder / "a.nii.gz"))
    return folder


def test_a_scan_that_cannot_fit_is_refused_with_both_numbers(scans, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 300_000_000)
    with pytest.raises(InputError, match=r"a\.nii\.gz: needs about 1\.10 GB of memory, but only 0\.30 GB"):
        check_memory(find_cases(scans)[0])


def test_a_scan_that_fits_is_let_through(scans):
    check_memory(find_cases(scans)[0])


NO_LIMIT = "9223372036854771712"
"""What version 1 says instead of none."""
GROUPS = {
    # name: (/proc/self/cgroup, root of the mount, its kind and options, group -> limit, what counts)
    "a container's own": ("0::/", "/", "cgroup2 cgroup2 rw", {"": "5000\n"}, [5000]),
    "none": ("0::/", "/", "cgroup2 cgroup2 rw", {"": "max\n"}, []),
    "systemd, the slice's": (
        "0::/user.slice/job.scope", "/", "cgroup2 cgroup2 rw,nsdelegate",
        {"user.slice/job.scope": "max\n", "user.slice": "7000\n"}, [7000],
    ),
    "systemd, the scope's": (
        "0::/user.slice/job.scope", "/", "cgroup2 cgroup2 rw", {"user.slice/job.scope": "6000", "user.slice": "7000"},
        [6000, 7000],
    ),
    "Slurm, the job's": (
        "5:cpuset:/slurm\n4:memory:/slurm/uid_0/job_1/step_0/task_0", "/", "cgroup cgroup rw,memory",
        {"slurm/uid_0/job_1": "4000", "slurm/uid_0/job_1/step_0/task_0": NO_LIMIT, "": NO_LIMIT},
        [int(NO_LIMIT), 4000, int(NO_LIMIT)],
    ),
    "docker without a namespace": (
        "3:cpu,memory:/docker/abc", "/docker/abc", "cgroup cgroup rw,cpu,memory", {"": "3000"}, [3000]
    ),
    "another controller": ("4:memory:/x", "/", "cgroup cgroup rw,pids", {"x": "3000"}, []),
    "a path beyond what is seen": ("0::/../../other", "/", "cgroup2 cgroup2 rw", {"": "2000"}, [2000]),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_the_limits_of_all_groups_around_a_process_count(tmp_path, monkeypatch, name):
    groups, root, kind, limits, expected = GROUPS[name]
    mount = tmp_path / "mount"
    for group, text in limits.items():
        (mount / group).mkdir(parents=True, exist_ok=True)
        (mount / group / memory.CGROUP_LIMITS[kind.split()[0]]).write_text(text)
    (tmp_path / "cgroup").write_text(groups + "\n")
    (tmp_path / "mountinfo").write_text(f"31 23 0:28 {root} {mount} rw,relatime shared:9 - {kind}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MOUNTS", tmp_path / "mountinfo")
    assert list(cgroup_limits()) == expected
    if expected:
        assert memory_limit() == min(expected)


def test_where_there_are_no_groups_the_machine_s_memory_is_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "none")
    assert 10**8 < memory_limit() < 10**14


def test_a_limit_of_the_shell_counts():
    """In a process of its own, which may ask for 500 MB more than it has."""
    code = """
import resource
from kits.runtime.memory import _kilobytes, memory_limit
most = _kilobytes("/proc/self/status", "VmSize") + 500_000_000
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(memory_limit() - _kilobytes("/proc/self/status", "VmRSS"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 400_000_000 < int(done.stdout) <= 520_000_000, done.stderr


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
