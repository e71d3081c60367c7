"""Files are whole or absent, no device is replaced, and what a killed writer left is swept."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kits.errors import OutputError
from kits.io.atomic import PARTIAL, aside, fitting, is_stream, sweep, write_text


def test_a_device_or_a_pipe_is_written_into_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text("text", pipe)
    reader.join(30)
    assert (read, pipe.is_fifo()) == (["text"], True)
    with pytest.raises(OutputError, match="is a device or a pipe"), aside(pipe):
        pass


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/full", "/proc/self/fd/1"])
def test_names_of_devices_are_known(name):
    assert is_stream(Path(name))


def test_a_device_that_is_full_is_a_sentence():
    with pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_text("text", Path("/dev/full"))


def test_standard_output_gets_the_text_though_it_is_a_file(tmp_path):
    code = "from pathlib import Path; from kits.io.atomic import write_text; write_text('text', Path('/dev/stdout'))"
    with (tmp_path / "said").open("w") as said:
        subprocess.run([sys.executable, "-c", code], stdout=said, check=True)
    assert (tmp_path / "said").read_text() == "text"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "report.json"
    with aside(path) as first, aside(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the later one's stays"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_what_writes_nothing_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), aside(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    (tmp_path / f"{PARTIAL}0123.nii.gz").write_text("half")
    with aside(tmp_path / "whole.txt") as partial:
        partial.write_text("whole")
        sweep([tmp_path, tmp_path / "nowhere"])
        assert [entry.name for entry in tmp_path.iterdir()] == [partial.name]
    assert (tmp_path / "whole.txt").read_text() == "whole"


@pytest.mark.parametrize("letter", ["n", "ü", "腎"])
def test_a_name_that_is_too_long_is_shortened_and_keeps_its_ending(letter):
    name = fitting(letter * 255 + ".nii.gz")
    assert len(os.fsencode(name)) <= 255
    assert name.endswith(".nii.gz")
    assert name != fitting(letter * 256 + ".nii.gz")
