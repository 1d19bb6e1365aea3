"""What a network of classes learns beside the classes: columns of the table of subjects, and where lesions lie."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.inputs import Input
from cohortex.models.folder import read_card, read_model
from cohortex.training.beside import Beside, Heads, Task, beside_of, task_of
from cohortex.training.checkpoint import Checkpoint
from cohortex.training.classify import train_classify
from cohortex.training.classify_network import Budget, Start, train_network
from cohortex.volume import Volume

SMALL = Start("smallresnet2d", {"widths": [4, 8], "dropout": 0.0})
AWARE = {"depth": 11, "features": [4, 4, 8, 8, 8], "dimensions": 2, "dropout": 0.0}


def pictures(count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures (n, 1, 16, 16) with a bright square, its masks, and its brightness."""
    rng = np.random.default_rng(2)
    bright = rng.uniform(0.5, 3, count)
    masks = np.zeros((count, 1, 16, 16), np.float32)
    for mask, (x, y) in zip(masks, rng.integers(2, 10, (count, 2)), strict=True):
        mask[0, x : x + 4, y : y + 4] = 1
    noise = 0.2 * rng.standard_normal(masks.shape)
    return (masks * bright[:, None, None, None] + noise).astype(np.float32), masks, bright


def head_with(tasks: tuple[Task, ...]) -> Heads:
    heads = Heads(tasks, 3)
    with torch.no_grad():
        for name, value in heads.layers.named_parameters():
            value.fill_(float(name.endswith("weight")))
    return heads


def test_numbers_and_categories_count_and_what_is_not_known_does_not():
    assert task_of("age", ["20", "40", "n/a", ""]).categories == 0
    assert task_of("age", ["20", "40", "n/a", ""]).standard() == pytest.approx([-1, 1, np.nan, np.nan], nan_ok=True)
    sex = task_of("sex", ["f", "m", "", "f"])
    assert (sex.categories, sex.values[[0, 1, 3]].tolist()) == (2, [0, 1, 0])
    with pytest.raises(Refused, match="column sex has 1 values"):
        task_of("sex", ["f", "f", ""])
    features, rows, loss = torch.ones(4, 3), np.arange(4), torch.tensor(0.5)
    # every head says 3: of the numbers -1 and 1 that is wrong by 4 and 2
    age = head_with((task_of("age", ["20", "40", "n/a", ""]),))
    with torch.no_grad():
        assert float(age(features, rows, loss)) == pytest.approx(0.5 + (16 + 4) / 2 / 2)
        assert float(head_with((sex,))(features, rows, loss)) == pytest.approx(0.5 + np.log(2))
        assert float(age(features[2:], rows[2:], loss)) == 0.5
        age.spreads.copy_(torch.tensor([0.1, 0.2]))
        assert float(age(features, rows, loss)) == pytest.approx(0.5 * np.exp(-1) + 0.5 + 5 * np.exp(-2) + 1, rel=1e-5)


def test_a_further_task_is_learned_and_leaves_no_head(tmp_path):
    inputs, _, bright = pictures()
    y = np.arange(40) % 2

    def fit(values: np.ndarray | None, path: Path | None = None, steps: int = 30) -> tuple[dict[str, torch.Tensor], float]:
        start = Start(SMALL.network, SMALL.options, beside=None if values is None else Beside((Task(values),)))
        budget = Budget(steps=steps, batch=8, learning_rate=1e-2, average=0.5)
        network, facts = train_network(inputs, y, 2, 1, budget, start=start, checkpoint=None if path is None else Checkpoint(path))
        return network.state_dict(), facts["loss"]

    told, drawn, plain = fit(bright, tmp_path / "kept"), fit(np.random.default_rng(3).permutation(bright)), fit(None, steps=1)
    # the class cannot be told, and of the tasks only the one that is in the pictures
    assert told[1] < drawn[1] - 0.3
    assert list(told[0]) == list(plain[0])
    # a training that is done already comes back with what it had learned
    again = fit(bright, tmp_path / "kept")
    assert all(torch.equal(value, again[0][name]) for name, value in told[0].items())


def test_masks_move_with_the_pictures_and_teach_where_lesions_lie():
    inputs, masks, _ = pictures()
    y = np.arange(40) % 2

    def error(beside: Beside | None) -> float:
        network, _ = train_network(
            inputs, y, 2, 1, Budget(steps=30, batch=8, learning_rate=1e-2), start=Start("lacnn", AWARE, beside=beside)
        )
        return float(network.lesion_loss(torch.from_numpy(inputs), torch.from_numpy(masks)))

    assert error(Beside(masks=masks)) < 0.45 < error(None)
    with pytest.raises(Refused, match="SmallResNet2D cannot be told where lesions lie"):
        train_network(inputs, y, 2, 1, Budget(steps=1), start=Start(SMALL.network, SMALL.options, beside=Beside(masks=masks)))


def scan(number: int, labelled: bool = True) -> list[Image]:
    """Return a picture of a cohort with a spot in half of the cases, and its label map."""
    rng = np.random.default_rng(number)
    data, spot = rng.normal(100, 10, (20, 24, 1)).astype(np.float32), np.zeros((20, 24, 1), np.uint8)
    if number % 2:
        x, y = rng.integers(3, 13, 2)
        spot[x : x + 5, y : y + 5] = 3
    data += 60 * (spot > 0)
    name = f"s{number:03d}"
    row = {"site": "here", "split": "train", "label": ("clear", "spot")[number % 2], "age": str(40 + number), "sex": "fm"[number % 3 % 2]}
    image = Volume(data, np.eye(4), "DX", body_part="chest")
    labels = Volume(spot, np.eye(4), "DX", body_part="chest")
    made = [Image(f"{name}_DX", name, "", "DX", "image", "image", "chest", row=row, opener=lambda: image)]
    if labelled:
        made.append(Image(f"{name}_DX+seg", name, "", "DX", "labels", "labels", "chest", row=row, opener=lambda: labels))
    return made


def test_a_stage_learns_columns_and_label_maps_beside_the_classes(tmp_path):
    images = [image for number in range(12) for image in scan(number)]
    training = {"folds": 2, "steps": 2, "batch": 4, "minutes": 60.0, "tasks": ["age", "sex"], "lesions": 3}
    section = {
        "default": {
            "weights": "m",
            "modalities": ["DX"],
            "parts": ["cnn"],
            "network": {"name": "lacnn", "options": AWARE},
            "input": {"size": [20, 24], "spacing_mm": None, "labels": False},
            "training": training,
        }
    }
    train_classify(images, section, 3, "cpu", tmp_path / "m")
    card, tensors = read_model(tmp_path / "m")
    assert (card["recipe"]["training"]["tasks"], card["recipe"]["training"]["lesions"]) == (["age", "sex"], 3)
    assert not any("beside" in name for name in tensors)
    plain = {"default": {**section["default"], "training": {**training, "tasks": [], "lesions": None}}}
    train_classify(images, plain, 3, "cpu", tmp_path / "plain")
    assert "tasks" not in read_card(tmp_path / "plain")["recipe"]["training"]
    assert read_card(tmp_path / "plain")["sha256"] != card["sha256"]


def test_masks_are_the_label_on_the_grid_of_the_input_and_faults_are_named():
    images, asked = [*scan(1), *scan(2)], Input((10, 12), None, False, "cohort")
    scans = [image for image in images if image.kind == "image"]
    found = beside_of(scans, images, {"tasks": [], "lesions": 3}, asked)
    assert found is not None and found.masks is not None
    truth = np.asarray(images[1].volume.data[..., 0] == 3, np.float32)
    assert found.masks[0, 0] == pytest.approx(truth.reshape(10, 2, 12, 2).mean((1, 3)), abs=1e-6)
    assert not found.masks[1].any()
    assert found.take(np.array([1])).masks is not None and len(found.take(np.array([1])).masks) == 1  # pyright: ignore[reportArgumentType]
    assert beside_of(scans, images, {}, asked) is None
    wrong = [
        (Input((10, 12), 1.0, False, "cohort"), images, "spacing_mm to null"),
        (Input((10, 12), None, True, "cohort"), images, "labels to false"),
        (asked, scans, "has no label map"),
    ]
    for own, given, words in wrong:
        with pytest.raises(Refused, match=words):
            beside_of(scans, given, {"lesions": 3}, own)
