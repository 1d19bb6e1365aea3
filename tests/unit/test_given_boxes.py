"""Boxes in tables beside images: read and checked, brought to canonical axes, learned from as painted labels are."""

from dataclasses import replace

import numpy as np
import pytest

from cohortex.bakeoff.recognized import cases_of
from cohortex.cohort import make_cohort
from cohortex.config import check_config
from cohortex.errors import BadInput, Refused
from cohortex.io.boxes import CORNERS, read_boxes
from cohortex.io.geometry import to_ras
from cohortex.io.nifti import write_nifti
from cohortex.items import Image
from cohortex.job import Job
from cohortex.models.folder import read_model
from cohortex.models.segment.apply import Feeding
from cohortex.stage import cut_items, read_images
from cohortex.stages.acquire import acquire
from cohortex.tables import read_table
from cohortex.training import recognize_data as data
from cohortex.training.recognize import train_recognize
from cohortex.training.recognize_settings import check_recognize
from cohortex.volume import Volume
from tests.toy_findings import pair, scene

HEADER = "label\t" + "\t".join(CORNERS)
SHAPE = (20, 30, 10)


def written(folder, *lines, header=HEADER):
    path = folder / "scan_boxes.tsv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def line(label, corners):
    return "\t".join([label, *map(str, corners)])


def beside(folder, image, *lines):
    """Return the boxes of an image as the stages give them."""
    table = read_boxes(written(folder, *lines), image.volume.shape, image.volume.affine, "t")
    name, cells = f"{image.id}+truth", {key: [f"{v:.6g}" if isinstance(v, float) else v for v in values] for key, values in table.items()}
    return Image(name, image.subject, "", image.modality, "table", "boxes", "head", row=image.row, opener=lambda: cells)


def told(seed, shape, kinds, names=("bright", "dark"), **how):
    """Return the lines of the things of a scene."""
    return [line(names[kind - 1], box) for kind, *box in scene(seed, shape, kinds=kinds, **how)[2]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_box_lies_around_the_same_voxels_on_canonical_axes(tmp_path, order):
    rng = np.random.default_rng(sum(order) + order[0])
    turned, _ = np.linalg.qr(np.eye(3) + 0.1 * rng.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = (turned * np.array([0.7, -1.2, 2.5]))[:, list(order)] * rng.choice([-1, 1], 3)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    low, high = np.array([3, 11, 0]), np.array([7, 12, 10])
    painted = np.zeros(SHAPE, np.uint8)
    painted[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    table = read_boxes(written(tmp_path, line("a", [*low, *high])), SHAPE, affine, "t")
    array, canonical = to_ras(painted, affine)
    at = np.argwhere(array)
    found = np.array([table[name][0] for name in CORNERS])
    assert np.allclose(found, [*at.min(axis=0), *at.max(axis=0) + 1])
    world = np.array([table[f"{name}_mm"][0] for name in CORNERS])
    assert np.allclose(canonical[:3, :3] @ (found[:3] - 0.5) + canonical[:3, 3], world[:3])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (line("a", [3, 3, 3, 3, 5, 5]), "line 3: x_high is 3, not above x_low, which is 3"),
        (line("a", [3, 9, 3, 5, 5, 5]), "line 3: y_high is 5, not above y_low, which is 9"),
        (line("a", [3, 3, 3, 22, 5, 5]), "line 3: x is from 3 to 22, outside the image, which has 20 voxels there"),
        (line("a", [3, 30, 3, 5, 31, 5]), "line 3: y is from 30 to 31, outside"),
        (line("a", [3, 3, -2, 5, 5, 5]), "line 3: z is from -2 to 5, outside"),
        (line("a", [3, "nan", 3, 5, 5, 5]), "line 3: y_low is 'nan', which is no number"),
        (line("a", [3, 3, 3, 5, 5, "inf"]), "line 3: z_high is 'inf'"),
        (line("a", [3, 3, 3, 5, 5, "five"]), "line 3: z_high is 'five'"),
        (line("a", [3, 3, 3, 5, 5, ""]), "line 3: z_high is ''"),
        (line("", [3, 3, 3, 5, 5, 5]), "line 3: it has no label"),
        ("a\t3\t3", "line 3 has 3 cells"),
    ],
)
def test_a_bad_box_sets_its_table_aside(tmp_path, row, words):
    good = line("a", [1, 1, 1, 4, 4, 4])
    with pytest.raises(BadInput, match=words) as caught:
        read_boxes(written(tmp_path, good, row), SHAPE, np.eye(4), "folder/scan_boxes.tsv")
    assert caught.value.code == "bad-boxes" and caught.value.sentence.startswith("folder/scan_boxes.tsv")
    assert len(read_boxes(written(tmp_path, good), SHAPE, np.eye(4), "t")["label"]) == 1


def test_tables_that_are_none_are_set_aside_and_empty_ones_say_that_there_is_nothing(tmp_path):
    with pytest.raises(BadInput, match="t does not exist"):
        read_boxes(tmp_path / "none.tsv", SHAPE, np.eye(4), "t")
    with pytest.raises(BadInput, match="no column x_high"):
        read_boxes(written(tmp_path, header=HEADER.replace("x_high", "X_high")), SHAPE, np.eye(4), "t")
    assert read_boxes(written(tmp_path), SHAPE, np.eye(4), "t")["label"] == []


def test_pictures_need_no_third_axis_and_a_box_may_touch_the_edge(tmp_path):
    path = written(tmp_path, "a\t-0.5\t2\t20.4\t9", header="label\tx_low\ty_low\tx_high\ty_high")
    table = read_boxes(path, (20, 30, 1), np.diag([-1.0, -1, 1, 1]), "t")
    assert [table[name] for name in CORNERS] == [[0], [21], [0], [20], [28], [1]]
    with pytest.raises(BadInput, match="no column z_low"):
        read_boxes(path, SHAPE, np.eye(4), "t")


def test_boxes_are_learned_from_as_the_pieces_of_labels_are(tmp_path):
    classes = [(1, "bright"), (2, "dark")]
    image, labels = pair("a", 7, (48, 56, 12), kinds=2, things=4)
    boxes = beside(tmp_path, image, *told(7, (48, 56, 12), 2, things=4))
    painted, given = (data.known_of((image, each), classes).truth for each in (labels, boxes))
    key = lambda found: sorted((int(k), *np.round(c, 3).tolist()) for k, c in zip(found.labels, found.corners, strict=True))  # noqa: E731
    assert key(given) == key(painted) and len(given)
    numbered = beside(tmp_path, image, *told(7, (48, 56, 12), 2, ("1", "2"), things=4))
    assert key(data.known_of((image, numbered), classes).truth) == key(given)
    assert len(data.known_of((image, boxes), classes, 10**6).truth) == 0
    # at the same place in the world on a finer grid
    fine = image.volume.affine @ np.diag([0.5, 0.5, 1, 1])
    fine[:3, 3] -= 0.25 * image.volume.affine[:3, :2].sum(axis=1)
    volume = replace(image.volume, data=np.repeat(np.repeat(image.volume.data, 2, 0), 2, 1), affine=fine)
    finer = data.known_of((replace(image, opener=lambda: volume), boxes), classes).truth
    assert np.allclose(finer.corners, given.corners * [2, 2, 1, 2, 2, 1], atol=0.01)


def test_slices_of_a_box_have_its_rectangle(tmp_path):
    image, _ = pair("a", 7, (48, 56, 12), things=1)
    boxes = beside(tmp_path, image, line("bright", [10, 11, 3, 20, 25, 6]), line("bright", [30, 31, 8.6, 34, 36, 8.9]))
    classes = [(1, "bright")]
    known = data.known_of((image, boxes), classes)
    item = data.prepare(known, Feeding(replace(data.plan_of([known]), across=2), 2, (48, 64)), classes, (image, boxes))
    expected = {**{k: [[10, 11, 20, 25]] for k in (3, 4, 5)}, 9: [[30, 31, 34, 36]]}
    assert {k: each.corners.tolist() for k, each in enumerate(item.slices) if len(each)} == expected


SECTION = {
    "default": {
        "network": "retinanet",
        "labels": {"1": "bright", "2": "dark"},
        "modality": None,
        "training": {"steps": 2, "minutes": 5.0, "batch": 2, "options": {"filters": 8, "convs": 1, "backbone": [4, 8]}},
    }
}


def given(tmp_path, seed, split="train", names=("bright", "dark"), **how):
    """Return a picture with its boxes."""
    image, _ = pair(str(seed), seed, (48, 56, 1), split, kinds=2, things=3)
    return [image, beside(tmp_path, image, *told(seed, (48, 56, 1), 2, names, things=3, **how))]


def test_a_training_on_boxes_is_that_on_painted_labels(tmp_path):
    painted, boxed = [], []
    for seed in (1, 2):
        image, labels = pair(str(seed), seed, (48, 56, 1), kinds=2, things=3)
        truth = data.known_of((image, labels), [(1, "bright"), (2, "dark")]).truth
        lines = [line(("bright", "dark")[k], map(int, box)) for k, box in zip(truth.labels, truth.corners, strict=True)]
        painted += [image, labels]
        boxed += [image, beside(tmp_path, image, *lines)]
    for name, images in (("boxed", boxed), ("painted", painted)):
        train_recognize(images, SECTION, 1, "cpu", tmp_path / name)
    (_, ours), (_, theirs) = (read_model(tmp_path / name) for name in ("boxed", "painted"))
    assert set(ours) == set(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    # boxes count where there are both
    both = [*painted[:2], *given(tmp_path, 1)[1:]]
    assert data.labels_by_image(both)["1_T2w"].role == "boxes"


def test_an_image_with_boxes_of_unknown_labels_is_not_learned_from(tmp_path, caplog):
    good, bad = given(tmp_path, 1), given(tmp_path, 2, names=("drak", "drak"))
    classes = [(1, "bright"), (2, "dark")]
    kept, without = data.of_use([tuple(good), tuple(bad)], classes)
    assert [image.id for image, _ in kept] == ["1_T2w"] and "boxes of drak" in without["2_T2w"] and "drak" in caplog.text
    with pytest.raises(Refused, match=r"boxes of drak, which recognize.default.labels does not name \(1: bright, 2: dark\)"):
        train_recognize(bad, SECTION, 1, "cpu", tmp_path / "none")
    away = good[0].volume.affine + np.outer([500, 0, 0, 0], [0, 0, 0, 1])
    moved = replace(good[0], opener=lambda volume=good[0].volume: replace(volume, affine=away))
    with pytest.raises(Refused, match="has a box outside 1_T2w"):
        train_recognize([moved, good[1]], SECTION, 1, "cpu", tmp_path / "none")


def test_a_bake_off_measures_on_boxes_and_says_which_images_it_leaves_out(tmp_path):
    images = [*given(tmp_path, 1), *given(tmp_path, 2, "test"), *given(tmp_path, 3, "test", ("drak", "drak"))]
    section = {"default": {**SECTION["default"], "training": {"least_voxels": 1}}}
    cases, without = cases_of(images, section, {"images": 9})
    assert [case.image.id for case in cases] == ["2_T2w"] and list(without) == ["3_T2w"]
    truth = {(case.classes[k], *map(round, c)) for case in cases for k, c in zip(case.truth.labels, case.truth.corners, strict=True)}
    assert truth == {(("bright", "dark")[kind - 1], *box) for kind, *box in scene(2, (48, 56, 1), 3, 2)[2]}


def test_a_table_of_the_cohort_names_boxes_and_acquire_reads_them_beside_their_image(tmp_path):
    from PIL import Image as Picture

    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20), dtype=np.uint8)).save(tmp_path / "a.png")
    written(tmp_path, "a\t2\t3\t8\t9", header="label\tx_low\ty_low\tx_high\ty_high")
    rows = ["subject\tmodality\tpath\trole\tsplit", "1\tXR\ta.png\t\ttrain", "1\tXR\tscan_boxes.tsv\tboxes\ttrain"]
    (tmp_path / "c.tsv").write_text("\n".join([*rows, "2\tXR\tscan_boxes.tsv\tboxes\ttrain"]) + "\n")
    make_cohort(check_config({"input": str(tmp_path / "c.tsv"), "work": str(tmp_path / "work")}))
    table = read_table(tmp_path / "work" / "cohort" / "batches" / "b00001.tsv")
    check_recognize({"default": {}}, table)
    with pytest.raises(Refused, match="role labels or boxes"):
        check_recognize({"default": {}}, [row for row in table if row["role"] != "boxes"])
    job = Job(
        "acquire", "b00001", tmp_path / "work/cohort/batches/b00001.tsv", None, None, None, tmp_path, tmp_path, None, {}, {}, 7, "cpu", 1
    )
    items = {item.name: item.images[0] for item in cut_items(job, read_images(job))}
    assert items["1_XR+truth"].kind == "table" and [image.id for image in items["1_XR+truth"].siblings] == ["1_XR"]
    made, image = acquire(items["1_XR+truth"], {}, None, 0), acquire(items["1_XR"], {}, None, 0)
    assert made.measures == {"boxes": 1}
    # both axes of a picture are turned
    assert [made.content[name] for name in CORNERS] == [[12], [21], [0], [18], [27], [1]]
    dark = np.asarray(Picture.open(tmp_path / "a.png"), np.float32)[3:9, 2:8]
    assert np.array_equal(np.asarray(image.content.data)[12:18, 21:27, 0], dark.T[::-1, ::-1])
    with pytest.raises(BadInput, match="boxes of an image that the table does not have"):
        acquire(items["2_XR+truth"], {}, None, 0)


def test_boxes_and_their_image_are_read_under_the_policies_of_the_dataset(tmp_path):
    inside, other = tmp_path / "data", tmp_path / "other"
    inside.mkdir()
    other.mkdir()
    written(other, line("a", [1, 1, 1, 5, 5, 5])).rename(other / "b.tsv")
    write_nifti(inside / "a.nii", Volume(np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32), np.eye(4)), compress=False)
    (inside / "b.tsv").symlink_to(other / "b.tsv")
    row = {"path": str(inside / "b.tsv"), "root": str(inside)}
    scan = Image("1_T1w", "1", "", "T1w", "image", "image", row={**row, "path": str(inside / "a.nii")})
    boxes = Image("1_T1w+truth", "1", "", "T1w", "table", "boxes", row=row, siblings=(scan,))
    with pytest.raises(BadInput, match="leads out of the dataset") as caught:
        acquire(boxes, {}, None, 0)
    assert caught.value.code == "outside"
    assert acquire(boxes, {"links": "follow"}, None, 0).measures == {"boxes": 1}
    (inside / "a.nii").rename(other / "a.nii")
    (inside / "a.nii").symlink_to(other / "a.nii")
    (inside / "b.tsv").unlink()
    (other / "b.tsv").rename(inside / "b.tsv")
    with pytest.raises(BadInput, match="leads out of the dataset"):
        acquire(boxes, {}, None, 0)
