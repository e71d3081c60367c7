"""Fixtures that several rooms of training share."""

import pytest

from test.train.abdomen import abdomen


@pytest.fixture(scope="module")
def host():
    hu, labels = abdomen()
    hu.setflags(write=False)
    labels.setflags(write=False)
    return hu, labels
