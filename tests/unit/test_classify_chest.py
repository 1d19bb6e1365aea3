"""The shipped classifier of chest radiographs: whole, within its limits, and asked through the stage."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cohortex.items import Image, Made
from cohortex.models.folder import fits, read_card
from cohortex.stages.classify import classify, load
from cohortex.volume import Volume
from tests.conftest import ROOT

NAME = "zoo/classify/chest"
FOLDER = ROOT / Path(NAME)
SECTION = {"default": {"weights": NAME}}


def radiograph(opacity: float = 0.0, pixels: int = 28, body_part: str = "chest", depth: int = 1, modality: str = "DX") -> Volume:
    """Return a drawing of a frontal radiograph: grey trunk, bright spine, heart and diaphragm, two dark lungs with something in them."""
    x, y = np.meshgrid(np.linspace(-1, 1, pixels), np.linspace(-1, 1, pixels), indexing="ij")
    image = np.full((pixels, pixels), 130.0)
    image += 70 * np.exp(-((x / 0.12) ** 2)) + 60 * np.exp(-(((x - 0.15) / 0.3) ** 2) - ((y + 0.35) / 0.35) ** 2)
    image += 60 / (1 + np.exp((y + 0.7) * 20))
    for side in (-1, 1):
        lung = 0.5 - 0.5 * np.tanh(15 * ((((x - 0.48 * side) / 0.3) ** 2 + ((y - 0.05) / 0.68) ** 2) - 1))
        image -= lung * (90 - 70 * opacity * np.exp(-(((x - 0.4 * side) / 0.25) ** 2) - ((y + 0.2) / 0.4) ** 2))
    image += np.random.default_rng(0).normal(0, 4, image.shape)
    voxels = np.repeat(image[:, :, None], depth, axis=2).astype(np.float32)
    return Volume(voxels, np.eye(4), modality, body_part=body_part)


@cache
def model() -> dict:
    """Return the model as the stage loads it."""
    return load(SECTION, {NAME: FOLDER}, "cpu")


def asked(volume: Volume) -> Made:
    """Return what the stage says of the image itself."""
    row = {"site": "here", "split": "test"}
    image = Image("s1_DX", "s1", "", volume.modality, "image", "image", volume.body_part, row=row, opener=lambda: volume)
    return next(made for made in classify([image], SECTION, model(), 0) if not made.tag)


def test_the_card_says_what_it_is_and_it_is_small():
    card = read_card(FOLDER)
    assert "CC BY 4.0" in card["data"] and "PneumoniaMNIST" in card["data"] and "28 x 28" in card["limits"]
    assert {entry["on"] for entry in card["metrics"]} >= {"validation subjects"}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3e6


@pytest.mark.parametrize("pixels", [28, 90])
def test_a_drawn_radiograph_is_classified_and_opaque_lungs_speak_for_pneumonia(pixels):
    clear, opaque = (asked(radiograph(opacity, pixels)).measures for opacity in (0.0, 1.0))
    assert clear["p_normal"] + clear["p_pneumonia"] == pytest.approx(1)
    assert opaque["p_pneumonia"] > clear["p_pneumonia"]


@pytest.mark.parametrize(
    "volume",
    [radiograph(body_part="head"), radiograph(depth=5), radiograph(modality="T1w"), radiograph(body_part="head", depth=5, modality="T1w")],
)
def test_anything_but_a_picture_of_a_chest_is_refused(volume):
    assert fits(read_card(FOLDER), volume) is not None
    made = asked(volume)
    assert (made.status, made.code) == ("skipped", "no-fit")
