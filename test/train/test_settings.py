"""Configuration: presets, TOML files, phases."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kits.errors import InputError
from test.train.made import DATA, SMALL
from train import loop
from train.config import Data, Source
from train.optimise import CYSTS
from train.presets import PRESETS
from train.recipe import recipe_of, steps_of
from train.settings import config_of, data_in, data_of, phases_of, read_settings, to_toml
from train.simulate.command import RECIPES as RECIPES_OF_SCANS


def test_the_paper_preset_is_table_1() -> None:
    paper = PRESETS["paper"]
    assert [paper[n].loss.class_weights for n in paper] == [(0.3, 1, 3), (0.3, 1, 3), (0.2, 0.25, 0.55)]
    assert [paper[n].schedule.learning_rate for n in paper] == [1e-4, 1e-4, 1e-3]
    assert [paper[n].initial for n in paper] == ["truncated-normal", "truncated-normal", "he-uniform"]
    assert [paper[n].augmentation.flip for n in paper] == [0, 0.5, 0.5]
    assert [paper[n].augmentation.zoom_chance for n in paper] == [0, 0, 0.66]
    for config in paper.values():
        assert config.augmentation.groups == ("KT",)
        assert (config.schedule.batch, config.schedule.epochs, config.loss.l2) == (32, 250, 0.1)
        assert not config.augmentation.intensity
        assert config.loss.terms == {"cross-entropy": 1.0}
        assert config.schedule.patience == 0, "250 epochs, of which the best is kept"
    assert [paper[n].regions for n in paper] == ["true", "located", "located"], (
        "stage 2 looks where stage 1 found kidneys"
    )


def test_a_configuration_file_changes_all_networks_or_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[training.schedule]\nepochs = 7\n[res-net.loss]\nl2 = 0.0\n[data]\nlicence = 'CC0'\n")
    settings = read_settings(file)
    assert data_of(settings).licence == "CC0"
    assert config_of("res-unet1", "paper", settings).schedule.epochs == 7
    assert config_of("res-unet1", "paper", settings).loss.l2 == 0.1
    assert config_of("res-net", "paper", settings).loss == replace(PRESETS["paper"]["res-net"].loss, l2=0.0)


def test_the_papers_preset_has_the_papers_networks_only() -> None:
    assert list(PRESETS["paper"]) == ["res-unet1", "res-unet2", "res-net"]
    assert config_of("wide-unet2", "best", {}).architecture == "wide-unet"
    with pytest.raises(InputError, match="preset paper has no wide-unet2; its networks are res-unet1"):
        config_of("wide-unet2", "paper", {})


@pytest.mark.parametrize("text", ["[network]\n", "[training]\nepoch = 3\n", "[training]\npatch = 'wide'\n", "["])
def test_a_wrong_configuration_is_told_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.toml|epoch|patch"):
        config_of("res-net", "best", read_settings(file))


def test_a_later_configuration_changes_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("[data]\nseed = 3\nvalid = ['a']\n[training.schedule]\nepochs = 7\nbatch = 4\n")
    second.write_text("[data]\nvalid = []\n[training.schedule]\nepochs = 5\n[res-net]\npatch = 64\n")
    settings = read_settings(first, second)
    assert data_of(settings) == Data(seed=3)
    config = config_of("res-net", "best", settings)
    assert (config.schedule.epochs, config.schedule.batch, config.patch) == (5, 4, 64)
    assert read_settings() == {}


RECIPES = Path(loop.__file__).parent / "recipes"


def test_the_shipped_recipe_ends_with_the_mean_of_the_last_two_phases() -> None:
    settings = read_settings(RECIPES / "shipped.toml")
    recipe = recipe_of("best", settings)
    assert {network: [phase.name for phase in own] for network, own in recipe.phases.items()} == {
        "wide-unet1": ["sixth", "seventh", "final"],
        "wide-unet2": ["sixth", "seventh", "final", "real"],
    }
    sixth, seventh, final, real = recipe.phases["wide-unet2"]
    assert (sixth.config.loss.smooth_px, sixth.config.loss.empty) == (100.0, 1.0)
    assert [phase.config.loss.empty for phase in (seventh, final, real)] == [0.3, 0.5, 0.5]
    schedules = [phase.config.schedule for phase in recipe.phases["wide-unet2"]]
    assert [how.epochs * how.epoch_steps for how in schedules] == [4500, 3900, 3000, 1500]
    assert real.average_with == "final"
    shares = {source.path.name: source.share for source in data_in(real, recipe.data).sources}
    assert [share for name, share in shares.items() if name.startswith("simulated")] == [0.0, 0.0, 0.0]
    assert len(data_in(final, recipe.data).valid) == 3 < len(recipe.data.valid)
    steps = {step.key: step for step in steps_of(recipe.phases)}
    assert steps["wide-unet2/real"].needs == {"wide-unet2/final"}
    assert isinstance(steps["wide-unet2/sixth"].start, Path)
    assert all(set(scans.kinds) <= set(RECIPES_OF_SCANS) for scans in recipe.simulated)


def test_the_folds_recipe_begins_at_random_and_takes_14600_steps() -> None:
    settings = read_settings(RECIPES / "shipped.toml", RECIPES / "folds.toml")
    recipe = recipe_of("best", settings)
    steps = {step.key: step for step in steps_of(recipe.phases)}
    assert (recipe.data.folds, recipe.data.valid, recipe.data.seed) == (3, (), 2311)
    assert steps["wide-unet2/first"].start is None
    assert steps["wide-unet1/only"].start == "wide-unet2/first"
    schedules = [phase.config.schedule for phase in recipe.phases["wide-unet2"]]
    assert sum(how.epochs * how.epoch_steps for how in schedules) == 14600


def test_the_ensembles_recipe_trains_a_network_of_four_classes_for_each_part() -> None:
    recipe = recipe_of("best", read_settings(RECIPES / "ensemble.toml"))
    data, shipped = recipe.data, data_of(read_settings(RECIPES / "shipped.toml"))
    assert {source.kind for source in data.sources} == {"slices", "volumes", "kits"}
    assert (data.licence, data.folds, len(data.parts)) == (shipped.licence, 3, 3)
    parts = [patient for part in data.parts for patient in part]
    assert len(parts) == len(set(parts)), "nobody is in two parts"
    assert {*parts, *data.valid} >= set(shipped.valid), "whom the start never saw is scored"
    stays, goes_on = (recipe.phases[network][0] for network in ("wide-unet1", "wide-unet2"))
    assert (stays.config.schedule.epochs, goes_on.config.schedule.epoch_steps) == (0, 3000)
    assert (goes_on.config.classes, goes_on.config.by_tumour) == (4, 0.7)
    assert (goes_on.start, goes_on.average_share) == (goes_on.average_with, 0.5)
    assert [step.needs for step in steps_of(recipe.phases)] == [set(), set()]


def test_in_the_last_recipe_the_branch_for_cysts_learns_after_all_else() -> None:
    recipe = recipe_of("best", read_settings(RECIPES / "contrast.toml"))
    before, cysts = recipe.phases["wide-unet2"]
    assert (before.config.classes, before.config.only) == (3, "")
    assert (cysts.config.classes, cysts.config.only, cysts.start) == (4, CYSTS, "")
    shares = {source.path.name: source.share for source in data_in(cysts, recipe.data).sources}
    assert (shares["kits23_slices"], shares["far"]) == (0.42, 0.0)


def test_a_phase_changes_its_network_alone_and_starts_where_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("""
[training]
patch = 128
[wide-unet2]
seed = 3
[[wide-unet2.phases]]
name = "a"
[[wide-unet2.phases]]
name = "b"
patch = 192
schedule = {epochs = 2}
source_shares = {kits = 0.25}
[[wide-unet2.phases]]
name = "c"
start = "a"
average_with = "b"
[[wide-unet1.phases]]
start = "wide-unet2/b"
regions = "true"
""")
    settings = read_settings(file)
    a, b, c = phases_of("wide-unet2", "best", settings)
    assert (a.config.patch, b.config.patch, c.config.patch) == (128, 192, 128)
    assert {phase.config.seed for phase in (a, b, c)} == {3}
    assert b.config.schedule == replace(a.config.schedule, epochs=2)
    data = Data((Source("kits", Path("data/kits")),))
    assert data_in(b, data).sources[0].share == 0.25
    with pytest.raises(InputError, match="gives a share to kits; sources are other"):
        data_in(b, Data((Source("kits", Path("data/other")),)))
    steps = steps_of(recipe_of("best", settings).phases)
    starts = {step.key: step.start for step in steps}
    second = "wide-unet2/"
    assert starts == {f"{second}a": None, f"{second}b": f"{second}a", f"{second}c": f"{second}a"} | {
        "wide-unet1/1": f"{second}b"
    }
    order = [step.key for step in steps]
    assert all(order.index(need) < order.index(step.key) for step in steps for need in step.needs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[res-net.phases]]\nname = "a"\n[[res-net.phases]]\nname = "a"\n', "several phases of the name a"),
        ('[[res-net.phases]]\naverage_with = "b"\n', "averaged with b, which is no phase"),
        ('[[res-net.phases]]\nregions = "located"\n', "no stage 1 is trained"),
        ('[[res-net.phases]]\nname = "a"\nstart = "b"\n[[res-net.phases]]\nname = "b"\n', "wait for each other"),
        ('[[res-net.phases]]\npatches = 3\n', "patches"),
        ('[res-net.loss.terms]\nfocal = 1.0\n', "no loss focal; known are cross-entropy, dice"),
        ('[res-net]\narchitecture = "res-nett"\n', "no architecture res-nett; known are"),
        ('[res-net]\nclasses = 4\n', "res-net does not tell cysts apart; set classes = 3, or take wide-unet"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        steps_of(recipe_of("best", read_settings(file)).phases)


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(to_toml({"data": asdict(DATA), "training": asdict(SMALL)}))
    settings = read_settings(file)
    assert data_of(settings) == DATA
    assert config_of("res-net", "paper", settings) == SMALL
