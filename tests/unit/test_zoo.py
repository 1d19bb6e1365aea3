"""The zoo's page: settings that the configuration takes, real scans dealt out by subject, a section made of a bake-off's pages."""

from argparse import Namespace

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import zoo
from cohortex.bakeoff.systems import systems_of
from cohortex.config import check_config
from cohortex.models.registry import entries
from cohortex.tables import read_table


@pytest.mark.parametrize("task", ["denoise", "superresolve"])
@pytest.mark.parametrize("cohort", ["demo", "real"])
def test_every_network_of_the_registry_is_a_candidate(root, task, cohort):
    given = Namespace(task=task, candidates="", steps=5, minutes=1.0, images=2, subjects=8)
    asked = zoo.settings_of(given, cohort)
    shipped = yaml.safe_load((root / "config.yaml").read_text())
    shipped["bakeoff"][task] |= asked.pop("bakeoff")[task]
    found = systems_of(check_config({**shipped, **asked}), task)
    assert {system.name for system in found if system.trains} == {entry.name for entry in entries(task)}
    assert all(system.section["default"]["training"]["steps"] == 5 for system in found if system.trains)


def test_real_subjects_are_in_one_split_and_their_scans_are_there(shared_data, tmp_path):
    rows = read_table(zoo.real_table(tmp_path, shared_data))
    assert {row["subject"] for row in rows} == {subject for subjects in zoo.SPLITS.values() for subject in subjects}
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert len({(row["subject"], row["split"]) for row in rows}) == len({row["subject"] for row in rows})


def test_a_section_is_the_leaderboard_below_a_heading_with_a_small_picture(tmp_path):
    pages = tmp_path / "pages"
    (pages / "pictures").mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 900), dtype=np.uint8)).save(pages / "pictures" / "compared.png")
    (pages / "leaderboard.md").write_text("# Bake-off\n\n- fact\n\n## Leaderboard\n\n![x](pictures/compared.png)\n")
    lines = "\n".join(zoo.section(pages, "demo", "denoise", tmp_path))
    assert lines.startswith("## Simulated heads\n\n- fact") and "### Leaderboard" in lines and "![x](denoise-demo.png)" in lines
    with Image.open(tmp_path / "denoise-demo.png") as picture:
        assert picture.width == zoo.WIDEST
