"""The model card says what the weight files, the runs and Table 2 say, and nothing of its own."""

import shutil
from pathlib import Path

import pytest

from kits.errors import WeightsError
from kits.runtime.weights import WeightsInfo, load_member, save_weights, write_checksums
from train.report.card import KITS19_LIMITS, Training, write_card
from train.report.evaluate import ENSEMBLE, Fold, Score, Table

NAN = float("nan")
TOML = '[training]\narchitecture = "res-net"\nsteps = 1234\n'


@pytest.fixture
def folder(tmp_path: Path, threshold_weights: Path) -> Path:
    return Path(shutil.copytree(threshold_weights, tmp_path / "my-weights"))


def section(card: Path, title: str) -> str:
    """The text under one of the card's headings."""
    return card.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_card_lists_what_the_weight_files_say(folder):
    card = write_card(folder, {})
    assert card == folder / "README.md"
    rows = section(card, "Files")
    assert (
        "| `res-unet1.safetensors` | Res-UNet | stage 1: where the kidneys are | 2.43 M | -30 to 300, 60, 80 |" in rows
    )
    assert "| `res-net.safetensors` | Res-Net | stage 2: kidney and tumour, a member of the ensemble | 1.24 M |" in rows
    assert rows.index("res-unet1") < rows.index("res-net")
    origin = "- `res-unet1`, `res-net`, `res-unet2` learned from: nothing: made by the tests. Licence of the weights: "
    assert f"{origin}**Apache-2.0**." in section(card, "Data and licence")


def test_networks_of_other_data_are_told_apart(folder):
    member = load_member(folder / "res-net.safetensors")
    info = WeightsInfo("segment", "res-net", member.info.norm, "ten simulated cases", "CC BY-NC-SA 4.0")
    save_weights(folder / "res-net.safetensors", member.network, info)
    write_checksums(folder)
    text = section(write_card(folder, {}), "Data and licence")
    assert "- `res-unet1`, `res-unet2` learned from: nothing" in text
    assert "- `res-net` learned from: ten simulated cases. Licence of the weights: **CC BY-NC-SA 4.0**." in text


def test_the_card_tells_each_networks_training(folder):
    card = write_card(folder, {"res-net": Training(TOML, 1000, 61.7, {"kidney": 0.9514, "tumour": 0.7})})
    text = section(card, "Training")
    assert "| `res-net` | 1000 | 62 | kidney 0.951, tumour 0.700 |" in text
    assert "| `res-unet2` | not stated | | |" in text
    assert f"```toml\n{TOML}```" in text


def test_a_training_without_its_weights_is_refused(folder):
    with pytest.raises(ValueError, match="no weights of res-net-fold2"):
        write_card(folder, {"res-net-fold2": Training(TOML, 1, 1.0, {})})


def test_table_2_is_in_the_card_if_there_is_one(folder):
    assert "Not evaluated" in section(write_card(folder, {}), "Scores")
    scores = [
        Score("case_00001", 0, ENSEMBLE, 0.5, 0.25, NAN, 1.0),
        Score("case_00002", 0, ENSEMBLE, 0.7, NAN, 3.0, 1.0),
    ]
    failed = {"case_00003": "/private/case_00003/imaging.nii.gz: is damaged."}
    table = Table("native", (Fold(folder, ("case_00001", "case_00002", "case_00003")),), scores, failed)
    card = write_card(folder, {}, table)
    text = section(card, "Scores")
    assert table.rows() in text
    assert "| Ensemble | 0.600 ± 0.100 (2) | 0.250 ± 0.000 (1) | 3.0 (1) | 0.98 ± 0.01 | 0.73 ± 0.25 |" in text
    assert "case_00003" in text
    assert "/private" not in card.read_text(encoding="utf-8")


def test_the_card_says_how_to_use_the_folder_and_what_it_is_not_for(folder):
    card = write_card(folder, {})
    text = card.read_text(encoding="utf-8")
    assert "Not for diagnosis" in text
    assert all(limit in section(card, "Limits") for limit in KITS19_LIMITS)
    assert "python process.py --input SCANS --output RESULTS --weights my-weights" in section(card, "Use")
    assert '-v "$PWD/my-weights:/opt/ml/model:ro"' in section(card, "Use")
    assert section(write_card(folder, {}, limits=["Phantoms only."]), "Limits").strip() == "- Phantoms only."


def test_a_folder_that_process_py_would_refuse_gets_no_card(folder):
    (folder / "res-unet1.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError):
        write_card(folder, {})
    assert not (folder / "README.md").exists()
