"""The loss: its terms, by name."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from test.helpers.pretended import pretended_gpu
from train.config import Loss
from train.losses import EMPTY_PX, TERMS, cross_entropy, kernel_penalty, loss, term
from train.presets import BEST_LOSS
from train.settings import config_of


@pytest.mark.parametrize("each", [0.0, 0.5, 1.0])
def test_the_loss_prefers_the_truth(each: float) -> None:
    truth = torch.zeros(2, 8, 8, dtype=torch.long)
    truth[:, 2:5, 2:5], truth[:, 3, 3] = 1, 2
    how = Loss((1.0, 1.0, 1.0), terms={"cross-entropy": 1.0, "dice": 1.0}, each=each)
    sure = torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2) * 20.0
    assert loss(sure, truth, how) < 0.01
    assert loss(torch.zeros_like(sure), truth, how) > 1
    assert loss(-sure, truth, how) > loss(torch.zeros_like(sure), truth, how)


def test_each_slices_dice_counts_small_tumours_as_much_as_large_ones_and_false_ones_too() -> None:
    truth = torch.zeros(3, 64, 64, dtype=torch.long)
    truth[0, :40, :40], truth[1, :20, :20] = 2, 2  # the third shows none

    def wrong(slice_: int, label: int, each: float) -> float:
        found = truth.clone()
        found[slice_, :40, :40] = label
        logits = torch.nn.functional.one_hot(found, 3).permute(0, 3, 1, 2) * 50.0
        return loss(
            logits, truth, Loss((0.0, 0.0, 0.0), terms={"cross-entropy": 1.0, "dice": 1.0}, each=each, empty=0.4)
        ).item()

    assert wrong(1, 0, 0.0) == pytest.approx(1 - 2 * 1600 / (2 * 1600 + 400), abs=1e-3)
    counted = 2 + 0.4
    assert wrong(1, 0, 1.0) == pytest.approx((1 - 10 / (400 + 10)) / counted, abs=1e-3)
    assert wrong(0, 0, 1.0) == pytest.approx((1 - 10 / (1600 + 10)) / counted, abs=1e-3)
    assert wrong(2, 2, 1.0) == pytest.approx(0.4 * (1 - EMPTY_PX / (1600 + EMPTY_PX)) / counted, abs=1e-3)
    assert wrong(1, 0, 1.0) > 0.9 * wrong(0, 0, 1.0) > wrong(2, 2, 1.0) > 0


def test_the_papers_cross_entropy_is_keras() -> None:
    truth = torch.tensor([[[0, 1], [2, 2]]])
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(1)
    weights = (0.3, 1.0, 3.0)
    pixels = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (2, 1, 1)]
    expected = -sum(weights[c] * probabilities[0, c, y, x].log() for c, y, x in pixels) / 4
    assert loss(logits, truth, Loss(weights)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_is_the_sum_of_squares_of_all_kernels() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.BatchNorm2d(1), torch.nn.ConvTranspose2d(1, 1, 2))
    expected = network[0].weight.square().sum() + network[2].weight.square().sum()
    assert kernel_penalty(network).item() == pytest.approx(expected.item())


def test_a_term_of_another_name_is_one_function_that_a_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "made-up", cross_entropy)  # so that it goes again in the end

    @term("made-up")
    def made_up(logits: torch.Tensor, labels: torch.Tensor, how: Loss) -> torch.Tensor:
        return logits.new_tensor(how.options["gamma"])

    settings = {"training": {"loss": {"terms": {"made-up": 2.0, "dice": 0.0}, "options": {"gamma": 3.0}}}}
    how = config_of("wide-unet2", "best", settings).loss
    logits, truth = torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    alone = loss(logits, truth, replace(how, terms={"cross-entropy": 1.0}))
    assert loss(logits, truth, how).item() == pytest.approx(alone.item() + 6.0, rel=1e-5)


def test_where_cysts_are_a_class_their_dice_counts_half() -> None:
    how = replace(BEST_LOSS, terms={"dice": 1.0}, each=0.0)
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[:, :8], truth[:, 8:12], truth[:, 12:] = 1, 2, 3
    right = 50.0 * functional.one_hot(truth, 4).permute(0, 3, 1, 2)
    as_kidney = 50.0 * functional.one_hot(truth.masked_fill(truth == 3, 1), 4).permute(0, 3, 1, 2)
    assert loss(right, truth, how).item() == pytest.approx(0.0, abs=1e-3)
    assert loss(as_kidney, truth, how).item() == pytest.approx(0.25, abs=0.01)


def test_a_batch_without_a_region_forgives_a_few_pixels_of_it() -> None:
    how = replace(BEST_LOSS, terms={"dice": 1.0}, each=0.0)
    truth = torch.ones(8, 16, 16, dtype=torch.long)
    prediction = truth.clone()
    prediction[0, :4, :10] = 3  # 40 px of no cyst, where 800 are added
    found = loss(50.0 * functional.one_hot(prediction, 4).permute(0, 3, 1, 2), truth, how).item()
    assert found == pytest.approx(0.25 * (1 - 800 / 840), rel=0.02)


def test_a_cyst_weighs_as_kidney_does_unless_it_has_a_weight_of_its_own() -> None:
    logits, truth = torch.randn(1, 4, 8, 8), torch.full((1, 8, 8), 3)
    own, shared = (replace(BEST_LOSS, class_weights=weights) for weights in ((1.0, 1.0, 1.0, 5.0), (1.0, 2.0, 1.0)))
    assert cross_entropy(logits, truth, own).item() == pytest.approx(2.5 * cross_entropy(logits, truth, shared).item())


@pytest.mark.parametrize("classes", [3, 4])
def test_the_loss_of_what_lies_on_a_gpu_is_made_there(classes: int) -> None:
    with pretended_gpu() as gpu:
        logits = torch.zeros(2, classes, 8, 8, device=gpu, requires_grad=True)
        value = loss(logits, torch.zeros(2, 8, 8, dtype=torch.long, device=gpu), BEST_LOSS)
        value.backward()
        assert value.device == logits.grad.device == gpu
