"""The stage recognize: what a network says becomes a table of boxes in voxels and in the world, whatever the grid and the size."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import Image
from cohortex.models.folder import Loaded
from cohortex.models.recognize.apply import Asked, Fed, fed_of, found_in, prepared, windows
from cohortex.models.recognize.boxes import Found
from cohortex.models.recognize.findings import Findings, linked
from cohortex.models.segment.apply import Feeding
from cohortex.stages.recognize import load, recognize
from cohortex.training.recognize_data import Known, plan_of
from cohortex.volume import Volume
from tests.toy_findings import SPACING, pair, scene


class Bright(nn.Module):
    """Finds the connected pieces above a value: a detector whose answers are known. Their score is the size of a piece."""

    def __init__(self, level: float = 0.75, multiple: int = 1):
        super().__init__()
        self.level, self.multiple, self.seen = level, multiple, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape))
        assert all(n % self.multiple == 0 for n in x.shape[2:])
        return x[:, 0]

    def detections(self, raw, shape, score=0.05, overlap=0.3, most=100):
        from scipy import ndimage as ndi

        assert tuple(raw.shape[1:]) == shape
        found = []
        for image in raw.numpy():
            pieces, _ = ndi.label(image > self.level)
            boxes = [(*(s.start for s in box), *(s.stop for s in box)) for box in ndi.find_objects(pieces)]
            sizes = np.bincount(pieces.ravel())[1:] / 1000
            kept = sizes >= score
            corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2 * len(shape))[kept]
            order = np.argsort(-sizes[kept])
            found.append(Found(corners[order], torch.zeros(int(kept.sum()), dtype=torch.int64), torch.tensor(sizes[kept][order])))
        return found


def clean(shape, balls, spacing=(1.0, 1.0, 1.0), modality="T2w"):
    """Return an image of balls of 1 on a body of .5, as an Image."""
    array = np.zeros(shape, np.float32)
    array[2:-2, 2:-2] = 0.5
    for low, high in balls:
        array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1.0
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 10, -20, 30
    volume = Volume(array, affine, modality, body_part="head")
    return Image("1_T2w", "1", "", modality, "image", body_part="head", row={}, opener=lambda: volume)


def fed(image, dimensions, across=None, reach=8.0, score=0.002, **changes):
    plan = plan_of([Known(image, Findings(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0)))])
    how = replace(plan, across=across, normalise="window", window=(0.0, 1.0), **changes)
    return Fed(Feeding(how, across, (32,) * dimensions), ["ball"], (reach,) * dimensions, score)


def card_of(how, **changes):
    extra = {"plan": how.feeding.plan.told(), "across": how.feeding.across, "patch": list(how.feeding.patch)}
    extra |= {"reach": list(how.reach), "score": how.score}
    common = {"name": "toy", "modality": ["T2w"], "body_part": ["head"], "dimensions": [2, 3], "spacing_mm": {"min": 0.1, "max": 9}}
    return {**common, "classes": how.classes, "extra": extra, **changes}


def model_of(how, network=None, **changes):
    return {"m": Loaded(card_of(how, **changes), network or Bright(), "cpu")}


BALLS = [((4, 5, 3), (12, 11, 7)), ((20, 22, 5), (24, 27, 8))]


def test_boxes_are_told_in_voxels_and_in_the_world():
    image = clean((40, 44, 12), BALLS, spacing=(0.5, 0.5, 2.0))
    word, table = recognize(image, {"weights": "m"}, model_of(fed(image, 3)), 0)
    assert (table.tag, table.of, word.content) == ("boxes", "1_T2w", None)
    content = table.content
    assert [content[f"{axis}_{end}"] for end in ("low", "high") for axis in "xyz"] == [
        [float(ball[side][axis]) for ball in BALLS] for side in (0, 1) for axis in range(3)
    ]
    assert content["label"] == ["ball", "ball"]
    assert content["score"] == pytest.approx([8 * 6 * 4 / 1000, 4 * 5 * 3 / 1000], abs=1e-4)
    # the middle of voxels 4 to 11 is 7.5
    assert [content[f"{axis}_mm"][0] for axis in "xyz"] == pytest.approx([10 + 0.5 * 7.5, -20 + 0.5 * 7.5, 30 + 2 * 4.5], abs=0.01)
    assert content["longest_mm"] == [8.0, 6.0]
    assert word.measures == {"findings": 2, "highest_score": pytest.approx(0.192), "model": "toy"}
    picture = word.previews["findings_axial"]
    assert (picture == (255, 120, 0)).all(axis=-1).any()


def test_no_finding_is_a_word_without_a_table():
    image = clean((40, 44, 12), [])
    (word,) = recognize(image, {"weights": "m"}, model_of(fed(image, 3)), 0)
    assert word.measures == {"findings": 0, "highest_score": None, "model": "toy"}
    (word,) = recognize(clean((40, 44, 12), BALLS), {"weights": "m", "score": 0.9}, model_of(fed(image, 3)), 0)
    assert word.measures["findings"] == 0


def test_the_settings_say_from_which_score_and_how_many():
    image = clean((40, 44, 12), BALLS)
    for settings, count in (({}, 2), ({"score": 0.1}, 1), ({"most": 1}, 1), ({"score": 0.5}, 0)):
        assert recognize(image, {"weights": "m", **settings}, model_of(fed(image, 3)), 0)[0].measures["findings"] == count


def test_a_coarser_grid_gives_boxes_in_voxels_of_the_image():
    image = clean((64, 64, 24), [((8, 16, 4), (24, 32, 12))], spacing=(1.0, 1.0, 2.0))
    how = fed(image, 3, spacing=(4.0, 4.0, 4.0))
    found = found_in(image.volume, Bright(), how, Asked(0.002))
    assert prepared(image.volume, how.feeding)[0].shape == (16, 16, 12)
    assert found.corners.tolist() == [[8, 16, 4, 24, 32, 12]]


def test_a_picture_is_one_slice():
    image = clean((40, 44, 1), [((4, 5, 0), (12, 11, 1))])
    word, table = recognize(image, {"weights": "m"}, model_of(fed(image, 2, across=2)), 0)
    assert [table.content[name] for name in ("x_low", "x_high", "y_low", "y_high", "z_low", "z_high")] == [[4], [12], [5], [11], [0], [1]]
    assert word.measures["findings"] == 1
    assert table.content["longest_mm"] == [8.0]


@pytest.mark.parametrize("across", [0, 1, 2])
def test_slices_of_a_network_of_two_dimensions_become_boxes_of_the_volume(across):
    image = clean((30, 32, 34), [((4, 5, 6), (12, 11, 14)), ((20, 22, 24), (24, 27, 28))])
    found = found_in(image.volume, Bright(), fed(image, 2, across=across), Asked(0.002))
    assert sorted(found.corners.tolist()) == [[4, 5, 6, 12, 11, 14], [20, 22, 24, 24, 27, 28]]
    thin = found_in(image.volume, Bright(), fed(image, 2, across=across), Asked(0.002, slices=6))
    assert thin.corners.tolist() == [[4, 5, 6, 12, 11, 14]]


def test_boxes_of_slices_are_linked_over_a_hole_but_not_over_a_gap():
    def at(score, shift=0.0, label=0):
        return Findings(np.array([[2.0 + shift, 2, 10 + shift, 10]]), np.array([label]), np.array([score]))

    none = Findings(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    found = linked([at(0.3), at(0.9, 1), none, at(0.5, 2), none, none, at(0.8), at(0.7, 0, 1)], across=2)
    assert found.scores.tolist() == [0.9, 0.8, 0.7]
    assert found.corners.tolist() == [[3, 2, 0, 11, 10, 4], [2, 2, 6, 10, 10, 7], [2, 2, 7, 10, 10, 8]]
    assert found.labels.tolist() == [0, 0, 1]


def test_windows_keep_every_box_once_and_whole(monkeypatch):
    monkeypatch.setattr("cohortex.models.recognize.apply.LARGEST", {2: 16, 3: 16})
    rng = np.random.default_rng(2)
    places = [(int(x), int(y)) for x in range(3, 60, 12) for y in range(3, 50, 12)]
    balls = [((x, y, 4), (x + int(rng.integers(3, 8)), y + int(rng.integers(3, 8)), 9)) for x, y in places]
    image = clean((70, 62, 20), balls)
    whole = sorted([*low, *high] for low, high in balls)
    network = Bright(multiple=4)
    assert sorted(found_in(image.volume, network, fed(image, 3), Asked(0.002)).corners.tolist()) == whole
    assert max(max(shape[2:]) for shape in network.seen) == 16
    assert sorted(found_in(image.volume, Bright(), fed(image, 2, across=2), Asked(0.002)).corners.tolist()) == whole
    starts = windows(70, 16, 8)
    assert (starts[0][0], starts[-1][0]) == (0, 54)
    assert all(a[2] == b[1] for a, b in pairwise(starts))


def test_a_volume_that_does_not_stay_in_memory_gives_the_same(tmp_path):
    image = clean((72, 70, 40), BALLS)
    how = fed(image, 3)
    with planned(Plan(memory_mb=1, scratch=tmp_path)):
        small = recognize(image, {"weights": "m"}, model_of(how), 0)[1].content
    assert small == recognize(image, {"weights": "m"}, model_of(how), 0)[1].content


@dataclass
class Case:
    code: str
    words: str
    image: Image
    model: dict


def cases():
    image = clean((40, 44, 12), BALLS)
    how = fed(image, 3)
    flat = clean((40, 44, 12), [])
    flat.volume.data[...] = 3.0
    wrong = clean((40, 44, 12), BALLS)
    wrong.volume.data[3, 3, 3] = np.nan
    demo = model_of(how)
    demo["m"].card["extra"]["cohort"] = "demo"
    yield Case("no-model", "name a model folder", image, {})
    yield Case("no-fit", "for CT, not for T2w", image, model_of(how, modality=["CT"]))
    yield Case("no-fit", "2-D images", image, model_of(how, dimensions=[2]))
    yield Case("demo-only", "simulated heads only", image, demo)
    yield Case("constant", "nothing to find", flat, model_of(how))
    yield Case("not-finite", "NaN", wrong, model_of(how))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.code} {case.words}")
def test_what_cannot_be_searched_is_skipped_or_set_aside_with_the_reason(case):
    with pytest.raises((Skip, BadInput), match=case.words) as error:
        recognize(case.image, {"weights": "m" if case.model else None}, case.model, 0)
    assert error.value.code == case.code


def test_a_folder_of_another_task_or_without_what_a_detector_needs_is_refused(root):
    section = {"default": {"weights": "zoo/classify/heads"}}
    with pytest.raises(Refused, match="is a model for classify, but recognize has it"):
        load(section, {"zoo/classify/heads": root / "zoo" / "classify" / "heads"}, "cpu")
    how = fed(clean((40, 44, 12), BALLS), 3)
    with pytest.raises(Refused, match="does not say what its network finds"):
        fed_of({**card_of(how), "classes": []})
    with pytest.raises(Refused, match="does not say how its network is fed"):
        fed_of({**card_of(how), "extra": {}})


def test_the_toy_images_hold_what_they_say():
    _, labels, corners = scene(4, (48, 56, 12), kinds=2)
    assert len(corners) == len({label for label, *_ in corners}) or len(corners) > 1
    for kind, *box in corners:
        assert (labels[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] == kind).any()
    image, known = pair("a", 4)
    assert image.volume.spacing == SPACING
    assert (known.kind, known.role, known.id) == ("labels", "labels", "a_T2w+labels")


class Broken(Bright):
    """Gives what is no number in one voxel, and says nothing of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = super().forward(x).clone()
        made[..., 3, 4] = float("nan")
        return made


@pytest.mark.parametrize(("dimensions", "across"), [(3, None), (2, 2)])
def test_a_network_that_gives_no_numbers_does_not_look_as_if_it_found_nothing(dimensions, across):
    image = clean((40, 44, 12), BALLS)
    with pytest.raises(BadInput, match="The model toy gives values that are not finite") as caught:
        recognize(image, {"weights": "m"}, model_of(fed(image, dimensions, across=across), Broken()), 0)
    assert caught.value.code == "bad-result"
