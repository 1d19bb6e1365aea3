"""What jobs ask for: it follows the images, the settings and the attempt, and every method was measured."""

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.factors import above
from benchmarks.resources import METHODS
from cohortex import blocks, resources
from cohortex.cohort import BatchSize
from cohortex.config import check_config
from cohortex.records import write_manifest
from cohortex.resources import Load, Need, Part, ask, ask_training, held_mb, load_of, load_of_records, memory_mb, method_of, minutes_of
from cohortex.stages import STAGES


@pytest.fixture(scope="module")
def config(root):
    import yaml

    return check_config(yaml.safe_load((root / "config.yaml").read_text()))


def images(megabytes, modality="T1w", count=1, spacing=(1.0, 1.0, 1.0)):
    return Load(tuple(Part(modality, 1, megabytes, megabytes, "1", spacing) for _ in range(count)), count * megabytes)


def test_every_method_that_settings_can_choose_was_measured(config):
    known = resources.needs()
    # a stage that uses the model of another task trains none
    learned = [stage for stage in STAGES if STAGES[stage].learned and STAGES[stage].task in ("", stage)]
    assert {(stage, method) for stage in METHODS for method in METHODS[stage]} <= set(known)
    assert {("demo", ""), ("report", ""), ("verdict", ""), *(("train", stage) for stage in learned)} <= set(known)
    assert all(
        math.isfinite(getattr(need, each.name)) and getattr(need, each.name) >= 0 for need in known.values() for each in fields(Need)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_more_or_larger_images_ask_for_more_and_never_for_less(config, stage):
    small, large, many = (ask(stage, config, load) for load in (images(4), images(100), images(4, count=10)))
    assert small.memory_mb <= large.memory_mb and small.seconds <= large.seconds and small.disk_mb <= large.disk_mb
    assert small.seconds < many.seconds
    assert memory_mb(small) > 200 and minutes_of(small) > resources.FLOOR_MIN


def test_dicom_objects_are_not_written_in_blocks_and_ask_for_the_whole_image(config):
    asked = {**config, "export": {"default": {"dicom": ["seg"]}}}
    without, small, large = (ask("export", *each) for each in ((config, images(1000)), (asked, images(10)), (asked, images(1000))))
    assert small.memory_mb < 1000 and without.memory_mb < 3000
    assert large.memory_mb > 5000 and large.seconds > without.seconds and large.disk_mb > without.disk_mb


def test_memory_and_minutes_grow_with_each_attempt(config):
    asked = ask("denoise", config, images(40))
    assert memory_mb(asked, 2) == pytest.approx(2 * memory_mb(asked), abs=2)
    assert minutes_of(asked, 3) == pytest.approx(3 * minutes_of(asked), abs=3)


def test_memory_follows_the_largest_image_and_where_subjects_are_looked_at_all_of_a_subject(config):
    one, four = images(50), images(50, count=4)
    assert ask("preprocess", config, four).memory_mb == ask("preprocess", config, one).memory_mb
    need = resources.needs()["regseg", "network"]
    more = ask("regseg", config, four).memory_mb - ask("regseg", config, one).memory_mb
    assert more == pytest.approx(resources.MARGIN_MB * need.held * 150, rel=1e-6, abs=1e-6)


def test_a_volume_that_does_not_stay_in_memory_takes_what_the_plan_says():
    need = Need(held=10, streamed=2)
    assert held_mb(need, 100, streams=True, blocks_mb=1024) == 1000
    assert held_mb(need, 5000, streams=True, blocks_mb=1024) == 2048 == held_mb(need, 10**6, streams=True, blocks_mb=1024)
    assert held_mb(need, 5000, streams=False, blocks_mb=1024) == 50000
    assert held_mb(Need(held=10), 5000, streams=True, blocks_mb=1024) == pytest.approx(1342.2, abs=0.1), "not measured as it streams"
    assert resources.COPIES == blocks.COPIES
    with blocks.planned(blocks.Plan(memory_mb=1024)):
        assert blocks.fits_memory((2**25,)) and not blocks.fits_memory((2**25 + 1,))  # 134.2 MB
    assert held_mb(need, 134.2, True, 1024) == 1342 and held_mb(need, 134.3, True, 1024) == 2048


@pytest.mark.parametrize(
    ("stage", "chosen", "modality", "spacing", "method"),
    [
        ("preprocess", {"bias_field": "auto"}, "T1w", (), "n4"),
        ("preprocess", {"bias_field": "auto", "filters": []}, "CT", (), "plain"),
        ("preprocess", {"bias_field": True, "filters": [{"median": {}}]}, "CT", (), "n4 filters"),
        ("denoise", {"method": "redcnn"}, "CT", (), "redcnn"),
        ("superresolve", {"method": "spline"}, "CT", (1.0, 1.0, 1.2), "none"),
        ("superresolve", {"method": "spline"}, "CT", (1.0, 1.0, 3.0), "spline"),
        ("superresolve", {"method": "none"}, "CT", (1.0, 1.0, 3.0), "none"),
        ("regseg", {"weights": None, "deformable": {"method": "network"}}, "CT", (), "affine"),
        ("regseg", {"weights": "zoo/regseg/heads", "deformable": {"method": "network"}}, "CT", (), "network"),
        ("regseg", {"weights": None, "deformable": {"method": "instance"}}, "CT", (), "instance"),
        ("regseg", {"weights": None, "deformable": {"method": "network", "otherwise": "none"}}, "CT", (), "affine"),
        ("regseg", {"weights": None, "deformable": {"method": "network", "otherwise": "gauss_newton"}}, "CT", (), "instance"),
        ("classify", {"features": False}, "CT", (), "none"),
        ("acquire", {}, "CT", (), ""),
    ],
)
def test_the_method_comes_from_the_settings_of_the_modality(stage, chosen, modality, spacing, method):
    assert method_of(stage, chosen, modality, spacing)[0] == method


def test_a_finer_grid_counts_as_what_it_will_be(config):
    thick = ask("superresolve", config, images(20, spacing=(1.0, 1.0, 3.0)))
    thicker = ask("superresolve", config, images(20, spacing=(1.0, 1.0, 4.0)))
    assert thick.memory_mb < thicker.memory_mb and thick.seconds < thicker.seconds


def test_what_the_stage_before_wrote_down_counts_once_it_is_there(config, tmp_path):
    size = BatchSize(1.0, 2.0, 2, 2.0, {"T1w": (1.0, 2.0, 2)})
    assert load_of("denoise", tmp_path, size) == Load((Part("T1w", 2, 1.0, 2.0),), 2.0)
    row = {"subject": "1", "image": "1_T1w", "kind": "image", "role": "image", "modality": "T1w", "path": "1_T1w.ozx"}
    row |= {"shape": "100x100x25", "spacing_mm": "1x1x4"}
    rows = [
        row,
        {**row, "image": "1_T1w+labels", "kind": "labels", "role": "labels"},
        {**row, "image": "1_T1w+field", "kind": "field"},
        {**row, "image": "1_CT+warped", "modality": "CT"},
        {**row, "image": "2_T1w", "subject": "2", "path": ""},
    ]
    write_manifest(tmp_path / "manifest.tsv", rows)
    assert load_of("regseg", tmp_path, size) == Load((Part("T1w", 1, 1.0, 1.0, "1", (1.0, 1.0, 4.0)),), 1.0)
    written = load_of_records([tmp_path / "manifest.tsv"], "export")
    assert sum(part.total_mb for part in written.parts) == pytest.approx(1 + 0.25 + 3 + 1)


def test_a_training_asks_by_its_steps_its_minutes_and_a_sample_of_a_large_cohort(config):
    def asked(load, **budget):
        section = {"default": {**config["denoise"]["default"], "training": {**config["denoise"]["default"]["training"], **budget}}}
        return ask_training("denoise", {**config, "denoise": section}, load)

    few, many = images(10, count=8), images(10, count=48)
    assert asked(few, steps=100).seconds < asked(few, steps=400).seconds
    assert asked(few, steps=10**9, minutes=10).seconds == asked(few, steps=10**8, minutes=10).seconds
    assert asked(many).memory_mb == asked(images(10, count=400)).memory_mb >= asked(few).memory_mb
    assert asked(many).disk_mb >= asked(few).disk_mb >= 500


def test_a_training_that_was_not_measured_asks_for_room_and_each_process_for_its_own(config):
    def asked(task, processes="auto", **changes):
        section = {"default": {**config[task]["default"], **changes}}
        return ask_training(task, {**config, task: section, "training": {"processes": processes}}, images(10, count=8))

    for task in ("denoise", "superresolve", "regseg", "classify"):
        assert asked(task).memory_mb < 0.7 * resources.ROOMY_MB
        assert asked(task, processes=4).memory_mb == pytest.approx(4 * asked(task).memory_mb)
    assert asked("denoise", method="smgan").memory_mb >= resources.ROOMY_MB
    patch = {**config["denoise"]["default"]["training"], "patch": 128}
    assert asked("denoise", training=patch).memory_mb >= resources.ROOMY_MB
    assert asked("superresolve", method="saint").memory_mb >= resources.ROOMY_MB
    assert asked("regseg", network={"name": "voxelmorph", "options": {}}).memory_mb >= resources.ROOMY_MB
    assert asked("classify", input={"size": [80, 96, 80], "spacing_mm": 2.0}).memory_mb >= resources.ROOMY_MB


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(1, 500), st.floats(100, 10**4)), min_size=1, max_size=8),
)
def test_fitted_factors_lie_above_every_measurement_and_a_line_is_found_again(points):
    import numpy as np

    columns = np.array([(1.0, mb) for mb, _ in points])
    used = np.array([value for _, value in points])
    assert (columns @ above(columns, used) >= used * (1 - 1e-6)).all()
    line = columns @ np.array([300.0, 7.0])
    assert columns @ above(columns, line) == pytest.approx(line, rel=1e-6)


def test_the_report_asks_for_more_time_and_disk_and_no_more_memory_where_subjects_have_pages():
    none, shown, every = (
        resources.ask_for("report", 10_000, resources.paged_images({"report": {"pictures": 60, "subjects": chosen}}, 10_000))
        for chosen in ("none", "shown", "all")
    )
    assert none.seconds < shown.seconds < every.seconds and none.disk_mb < shown.disk_mb < every.disk_mb
    assert none.memory_mb == shown.memory_mb == every.memory_mb
    assert resources.paged_images({"report": {"pictures": 60, "subjects": "shown"}}, 8) == 8


def test_the_report_asks_for_the_volumes_that_it_reads_for_viewers_and_for_no_more_of_them_in_a_large_cohort():
    chosen = {"pictures": 60, "subjects": "all", "viewer": "shown"}
    few, many, none = (
        resources.viewed_images({"report": chosen | {"viewer": viewer}}, images)
        for viewer, images in (("shown", 8), ("shown", 10_000), ("none", 10_000))
    )
    assert (few, many, none) == (8, 4 * 60, 0) == (8, resources.viewed_images({"report": chosen}, 50_000), none)
    assert resources.viewed_images({"report": chosen | {"subjects": "none"}}, 8) == 0
    without, with_viewers = (resources.ask_for("report", 10_000, 240, viewed) for viewed in (0, many))
    assert without.seconds < with_viewers.seconds and without.disk_mb < with_viewers.disk_mb and without.memory_mb < with_viewers.memory_mb
