"""The two presets: ``paper``, Table 1 and section 3.1 to the letter, and ``best``, what the field has learned since.

Each improvement of ``best`` is a setting of its own, so that ``bench/ablation.py`` can measure each alone.
"""

from __future__ import annotations

from dataclasses import replace

from .config import GROUPS, Augmentation, Config, Loss, Schedule

STAGE_1 = (1 / 3, 1 / 3, 1 / 3)  # section 3.1: stage 1 balances all three groups,
STAGE_2 = (0.0, 0.5, 0.5)  # stage 2 the two with kidney
PAPER = {
    "res-unet1": Config("res-unet", "locate", STAGE_1, Loss((0.3, 1.0, 3.0)), Schedule(1e-4)),
    "res-unet2": Config(
        "res-unet",
        "segment",
        STAGE_2,
        Loss((0.3, 1.0, 3.0)),
        Schedule(1e-4),
        Augmentation(flip=0.5),
        regions="located",
    ),
    "res-net": Config(
        "res-net",
        "segment",
        STAGE_2,
        Loss((0.2, 0.25, 0.55)),
        Schedule(1e-3),
        Augmentation(flip=0.5, zoom_chance=0.66),
        "he-uniform",
        regions="located",
    ),
}
"""Stage 2 learns in the regions that stage 1 finds (section 2.3), for at most 250 epochs, of which the best is kept."""

# The paper's class weights raise tumour threefold; with a Dice term beside the cross-entropy, less is enough. Stage 2
# also sees regions without kidney, since stage 1 is wrong at times.
BEST_LOSS = Loss((0.5, 1.0, 1.5), {"cross-entropy": 1.0, "dice": 1.0}, each=0.5, l2=0.0)
BEST_SCHEDULE = Schedule(
    learning_rate=2.5e-3,
    optimiser="adamw",
    one_cycle=True,
    weight_decay=1e-4,
    clip=5.0,
    average=0.99,
    batch=8,
    epochs=20,
    epoch_steps=100,
    keep="last",
    patience=0,
)
BEST_AUGMENTATION = Augmentation(
    groups=GROUPS,
    flip=0.5,
    reverse=0.5,
    zoom_chance=1.0,
    zoom=1.5,  # KiTS19's pixels measure 0.44 to 1.04 mm, typically 0.78
    shrink=1.25,
    stretch=0.1,
    shift_px=32.0,
    intensity=True,
    alone=0.3,
    drift=0.5,
    lesions=0.3,
    pasted=0.4,
)
BEST = {
    "res-unet1": Config(
        "res-unet", "locate", STAGE_1, BEST_LOSS, BEST_SCHEDULE,
        replace(BEST_AUGMENTATION, flip=0.0), "default",
    ),
    "res-unet2": Config(
        "res-unet", "segment", (0.1, 0.4, 0.5), BEST_LOSS, BEST_SCHEDULE, BEST_AUGMENTATION, "default"
    ),
    "res-net": Config(
        "res-net", "segment", (0.1, 0.4, 0.5), BEST_LOSS, replace(BEST_SCHEDULE, learning_rate=1.5e-3),
        BEST_AUGMENTATION, "default", dropout=False,
    ),
}  # fmt: skip
BEST |= {
    "wide-unet1": replace(BEST["res-unet1"], architecture="wide-unet"),
    "wide-unet2": replace(BEST["res-unet2"], architecture="wide-unet"),
}
BEST = {
    name: replace(config, thin=3, modes=("native",) if config.architecture == "wide-unet" else ("paper",))
    for name, config in BEST.items()
}
PRESETS = {"paper": PAPER, "best": BEST}
NETWORKS = tuple(BEST)
