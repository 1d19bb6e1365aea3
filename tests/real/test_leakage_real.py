"""The copies that a public data set really has are found."""

from pathlib import Path

import numpy as np

from cohortex.measures.leakage import check_split, to_leave_out


def test_the_copies_of_pneumoniamnist_are_found_and_no_other_chest(shared_data: Path) -> None:
    with np.load(shared_data / "pneumoniamnist" / "pneumoniamnist_trainval.npz") as file:
        train, held = file["train_images"], file["val_images"]
    part = np.repeat(["train", "val"], [len(train), len(held)])
    images = np.concatenate([train, held])
    found = check_split(part, images)
    # 8 images of the validation part are in the training part too, and the training part has 17 images more than different ones.
    assert len({pair.second for pair in found.copies}) == 8
    assert len(train) - len(np.unique(train.reshape(len(train), -1), axis=0)) == 17
    assert all(pair.same for pair in [*found.copies, *found.repeats])
    out = to_leave_out([*found.copies, *found.repeats], part, "val")
    kept = np.setdiff1d(np.arange(len(images)), out)
    assert (
        len(np.unique(images[kept].reshape(len(kept), -1), axis=0)) == len(kept) == len(np.unique(images.reshape(len(images), -1), axis=0))
    )
    assert (kept >= len(train)).sum() == len(held)
