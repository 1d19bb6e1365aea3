"""The shipped detector: it loads, finds the lesions of a head that it never saw, and is not asked about a real scan."""

from dataclasses import replace

import numpy as np
import pytest

from cohortex.errors import Skip
from cohortex.items import DEMO_SITE, Image
from cohortex.measures.components import find_components
from cohortex.measures.detection import box_overlap
from cohortex.models.folder import SCHEMA, read_card
from cohortex.stages.recognize import load, recognize
from cohortex.training.zoo_recognize import SEED, painted_head

SHIPPED = SCHEMA.parents[1] / "zoo" / "recognize" / "lesions"
OTHERS = 90001
"""Seed of heads that no model saw."""


def test_the_shipped_detector_is_small_and_says_what_it_is():
    card = read_card(SHIPPED)
    assert card["simulated"] and card["extra"]["cohort"] == "demo" and card["seed"] == SEED
    assert "simulated" in card["data"] and "Not for" not in card["intended_use"] and "simulated" in card["limits"]
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5e6


def test_the_shipped_detector_finds_the_tumour_of_a_head_that_it_never_saw():
    volume, labels, diagnosis = painted_head(1, OTHERS)
    assert diagnosis == "tumour"
    pieces = find_components(np.asarray(labels.data) == 6)
    truth = np.concatenate([pieces.low, pieces.high], axis=1).astype(float)[np.argmax(pieces.voxels)][None]
    section = {"default": {"weights": "shipped"}}
    model = load(section, {"shipped": SHIPPED}, "cpu")
    image = Image("a_T1w", "a", "", "T1w", "image", "image", "head", row={"site": DEMO_SITE}, opener=lambda: volume)
    made = recognize(image, section["default"], model, 0)
    table = made[1].content
    assert isinstance(table, dict)
    assert table["label"][0] == "lesion"
    corners = np.array([[table[f"{axis}_{end}"][0] for end in ("low", "high") for axis in "xyz"]], float)
    assert box_overlap(corners, truth)[0, 0] > 0.3
    real = replace(image, row={"site": "hospital"})
    with pytest.raises(Skip, match="simulated heads"):
        recognize(real, section["default"], model, 0)
