"""A runtime holds what is known, and is made of the words that people write."""

import pytest

from kits.choices import Mode, Precision, Runner
from kits.plan import NATIVE, PAPER
from kits.runtime.runtime import Runtime


def test_words_become_choices_and_a_modes_plan() -> None:
    runtime = Runtime.of("cuda:1", "paper", "torch", "fp16")
    assert runtime == Runtime("cuda:1", Runner.TORCH, Precision.FP16, PAPER)
    assert Runtime.of() == Runtime() == Runtime("auto", Runner.AUTO, Precision.AUTO, NATIVE)
    assert Runtime.of(mode=Mode.PAPER).plan is PAPER


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps", "", "cuda:1 "])
def test_a_device_that_there_is_not_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:NUMBER"):
        Runtime(device)


@pytest.mark.parametrize("word", ["mode", "runner", "precision"])
def test_a_word_that_means_nothing_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="'quick'"):
        Runtime.of(**{word: "quick"})
