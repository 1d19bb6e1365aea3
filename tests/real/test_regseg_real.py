"""A real head goes through the stage regseg as shipped: the networks for any contrast label it, and tissues follow its intensities."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.real_heads import GREY, VENTRICLES, WHITE, real_t1
from cohortex.config import resolve_weights
from cohortex.items import Image
from cohortex.measures.segmentation import dice
from cohortex.stages.regseg import load, regseg
from cohortex.volume import Volume

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_a_real_t1_is_labelled_by_default(root):
    scan = real_t1(DATA)
    if scan is None:
        pytest.skip("the optional folder of real scans (../shared/data) is not here")
    section = yaml.safe_load((root / "config.yaml").read_text())["regseg"]
    folders = {name: Path(folder) for name, folder in resolve_weights(section, "regseg", "work", root).items()}
    image = Image("a_T1w", "a", "", "T1w", "image", "image", "head", opener=lambda: Volume(scan.array, scan.affine, "T1w", "image", "head"))
    made = regseg([image], section, load(section, folders, "cpu"), 1)
    labels = next(thing.content for thing in made if thing.tag == "seg")
    found = np.where(scan.known == 255, 0, labels.array())
    overlap = dice(np.where(scan.known == 255, 0, scan.known), found, [GREY, WHITE, VENTRICLES])
    assert overlap[GREY] > 0.8 and overlap[WHITE] > 0.85 and overlap[VENTRICLES] > 0.75
    word = next(thing for thing in made if not thing.tag)
    assert word.status == "ok" and word.measures["model"] == "regseg-head-any"
