"""A reader in a child process: no file ends, blocks or fills the run, and the next one is read."""

import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.images import read_labels, read_volume
from kits.io.reader import Reader
from kits.io.remark import Remark
from test.helpers.scans import AFFINE, ct, write_meta, write_nifti
from test.helpers.trouble import make_trouble


@pytest.fixture
def trouble(tmp_path, monkeypatch):
    make_trouble(tmp_path, monkeypatch)


def case_of(path):
    return Case("a case", path, "out.nii.gz")


def test_a_volume_comes_as_it_is_read_here(tmp_path):
    elsewhere = AFFINE.copy()
    elsewhere[2, 3] += 40
    case = case_of(write_nifti(tmp_path / "a.nii.gz", qform=(elsewhere, 1)))
    with Reader() as reader:
        ours, theirs = read_volume(case), reader.read(case)
    np.testing.assert_array_equal(theirs.hu, ours.hu)
    assert (theirs.name, theirs.spacing, theirs.home, theirs.warnings) == (
        ours.name, ours.spacing, ours.home, ours.warnings,
    )  # fmt: skip
    assert [warning.code for warning in theirs.warnings] == ["transforms-disagree"]
    assert theirs.hu.flags.c_contiguous
    theirs.hu[:] = 0  # it belongs to us alone


def test_labels_come_as_they_are_read_here(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8))
    with Reader() as reader:
        ours, theirs = read_labels(path), reader.read_labels(path)
    np.testing.assert_array_equal(theirs[0], ours[0])
    assert theirs[1] == ours[1]


def test_a_file_that_cannot_be_read_is_refused_in_the_same_words(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_text("text")
    with pytest.raises(InputError) as ours:
        read_volume(case_of(path))
    with Reader() as reader, pytest.raises(InputError) as theirs:
        reader.read(case_of(path))
    assert str(theirs.value) == str(ours.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "its reader crashed .SIGSEGV."),
        ("killed", "memory ran out"),
        ("hang", "more than 1 s"),
        ("bug", "nobody"),
    ],
)
def test_trouble_costs_one_sentence_and_the_next_file_is_read(tmp_path, trouble, name, reason):
    bad, good = write_meta(tmp_path / f"{name}.mha"), write_meta(tmp_path / "good.mha")
    with Reader(patience=1 / 130) as reader:
        for _ in range(2):
            with pytest.raises(InputError, match=reason) as caught:
                reader.read(case_of(bad))
            assert str(caught.value).startswith(f"{bad}: ")
        np.testing.assert_array_equal(reader.read(case_of(good)).hu, ct())


def test_a_child_that_was_killed_between_two_files_is_replaced(tmp_path):
    case = case_of(write_meta(tmp_path / "a.mha"))
    with Reader() as reader:
        reader.read(case)
        reader._child.kill()
        reader._child.wait()
        np.testing.assert_array_equal(reader.read(case).hu, ct())


def test_stopping_ends_a_reading_that_hangs_at_once(tmp_path, trouble):
    case = case_of(write_meta(tmp_path / "hang.mha"))
    reader = Reader()
    errors = []

    def read():
        try:
            reader.read(case)
        except InputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while not reader._lock.locked():
        time.sleep(0.01)
    reader.stop()
    thread.join(30)
    assert errors == [f"{case.source}: reading was stopped."]
    with pytest.raises(InputError, match="stopped"):
        reader.read(case)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to the limit")
def test_a_file_larger_than_the_memory_it_may_take_is_told_as_memory(tmp_path):
    case = case_of(write_meta(tmp_path / "a.mha", ct((64, 512, 512))))
    with Reader(memory=lambda: 8_000_000) as reader, pytest.raises(InputError, match="memory ran out"):
        reader.read(case)


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mha")
    with Reader() as reader, pytest.raises(InputError, match="no regular file"):
        reader.read(case_of(tmp_path / "a.mha"))


def test_names_of_no_encoding_are_read(tmp_path):
    path = write_nifti(tmp_path / os.fsdecode(b"m\xe9d.nii.gz"))
    with Reader() as reader:
        np.testing.assert_array_equal(reader.read(case_of(path)).hu, ct())


def test_no_child_outlives_its_reader(tmp_path):
    case = case_of(write_meta(tmp_path / "a.mha"))
    with Reader() as reader:
        reader.read(case)
        child = reader._child
    assert child.poll() is not None


def test_reading_needs_no_torch(tmp_path):
    code = "import sys, kits.io.child, kits.io.reader; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_importing_changes_no_setting_of_itk():
    code = (
        "import SimpleITK as sitk; sitk.ProcessObject.SetGlobalWarningDisplay(True); import kits.io.images; "
        "print(sitk.ProcessObject.GetGlobalWarningDisplay())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_a_remark_is_a_string_with_a_code_wherever_it_goes():
    remark = pickle.loads(pickle.dumps(Remark("gaps", "Gaps in z.")))
    assert (remark, remark.code) == ("Gaps in z.", "gaps")
