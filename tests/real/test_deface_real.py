"""Real heads lose their face in the stage deface and keep their brain."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.deface import measured, real
from cohortex.stages.deface import load

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_a_real_head_keeps_the_brain_of_its_mask_and_loses_its_face(root):
    scans = {scan.name: scan for scan in real(DATA)}
    scan = next((scan for name, scan in scans.items() if "patient20" in name and "T1w" in name), None)
    if scan is None:
        pytest.skip("the optional folder of real scans (../shared/data) is not here")
    settings = yaml.safe_load((root / "config.yaml").read_text())["deface"]["default"]
    found = measured(scan, settings, load({"default": settings}, {settings["weights"]: root / settings["weights"]}, "cpu"))
    assert found["left"] < 25 and found["rays"] > 500
    assert np.isnan(found["brain"]) or found["brain"] < 1
