"""The shipped detector: it loads, finds a bright tumour in a generated slice of a head, and leaves alone what it is not for."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from cohortex.errors import Skip
from cohortex.items import Image
from cohortex.measures.detection import box_overlap
from cohortex.models.folder import SCHEMA, read_card
from cohortex.stages.recognize import load, recognize
from cohortex.volume import Volume

SHIPPED = SCHEMA.parents[1] / "zoo" / "recognize" / "brain_tumours"
SECTION = {"default": {"weights": "shipped"}}


def head(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice (128, 128, 1) with a brain, a skull and a bright disc in the brain, and the box of the disc (4,)."""
    x, y = np.ogrid[:128, :128]
    away = np.hypot((x - 64) / 44, (y - 64) / 54)
    brain = 55 + 36 * ndi.gaussian_filter(rng.standard_normal((128, 128)), 3)
    values = np.where(away < 1, brain, 2) + 90.0 * ((away > 1.04) & (away < 1.12))
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(8, 11)
    middle = np.array([64 + 18 * np.cos(angle), 64 + 22 * np.sin(angle)])
    values = np.where(np.hypot(x + 0.5 - middle[0], y + 0.5 - middle[1]) < radius, 140, values)
    noisy = np.abs(ndi.gaussian_filter(values, 0.8) + rng.normal(0, 2, values.shape))
    return noisy.astype(np.float32)[..., None], np.r_[middle - radius, middle + radius]


def scan(array: np.ndarray, modality: str = "T1w") -> Image:
    volume = Volume(array, np.eye(4), modality, "image", "head")
    return Image("a", "a", "", modality, "image", "image", "head", row={"site": "here"}, opener=lambda: volume)


def test_the_shipped_detector_is_small_and_says_what_it_is():
    card = read_card(SHIPPED)
    assert card["classes"] == ["pituitary", "meningioma", "glioma"] and not card["simulated"]
    assert "CC BY 4.0" in card["data"] and "Not for diagnosis" in card["limits"]
    assert card["metrics"][0]["on"] == "test slices" and card["metrics"][0]["low"] > 0.3
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5e6


def test_the_shipped_detector_finds_a_bright_tumour():
    model, rng = load(SECTION, {"shipped": SHIPPED}, "cpu"), np.random.default_rng(1)
    shared = []
    for _ in range(6):
        array, truth = head(rng)
        made = recognize(scan(array), SECTION["default"], model, 0)
        table = made[1].content
        assert isinstance(table, dict)
        box = np.array([[table[f"{axis}_{end}"][0] for end in ("low", "high") for axis in "xy"]], float)
        shared.append(float(box_overlap(box, truth[None])[0, 0]))
    assert sorted(shared)[1] > 0.5, shared
    for wrong in (scan(array, "CT"), scan(np.repeat(array, 8, axis=2))):
        with pytest.raises(Skip):
            recognize(wrong, SECTION["default"], model, 0)
