"""Stages with networks compute in float32 unless told otherwise, and say how they computed."""

import numpy as np
import pytest
import torch

from cohortex import inference
from cohortex.items import Made
from cohortex.models import registry
from cohortex.models.folder import Loaded
from cohortex.stages.denoise import denoise
from cohortex.stages.regseg import regseg
from cohortex.stages.superresolve import superresolve
from cohortex.volume import Volume
from tests.large_heads import CARD, as_image, head, joint, regseg_section


def loaded(task: str, name: str, **options) -> dict[str, Loaded]:
    torch.manual_seed(0)
    return {"m": Loaded({**CARD, "network": name, "options": options}, registry.build(task, name, **options).eval(), "cpu")}


def denoised(root, precision: str) -> Made:
    model = loaded("denoise", "redcnn", filters=2)
    volume = head("CT", (6, 6, 9))
    return denoise(as_image("1_CT", volume), {"method": "redcnn", "weights": "m", **wanted(precision)}, model, 0)


def resolved(root, precision: str) -> Made:
    volume = head("T1w", (4, 4, 8))
    model = loaded("superresolve", "srcnn3d")
    made = superresolve(as_image("1_T1w", volume), {"method": "srcnn3d", "weights": "m", **wanted(precision)}, model, 0)
    assert made.measures["method"] == "srcnn3d"
    return made


def segmented(root, precision: str) -> Made:
    section = regseg_section(root)
    section["default"] |= wanted(precision)
    image = as_image("1_T1w", head("T1w", (6, 6, 6)))
    labels, word = regseg([image], section, joint(6.0), 0)
    return Made(labels.content, measures=word.measures)


def wanted(precision: str) -> dict[str, str]:
    return {"precision": precision} if precision else {}


def data(made: Made) -> bytes:
    assert isinstance(made.content, Volume)
    return made.content.array().tobytes()


@pytest.mark.parametrize("stage", [denoised, resolved, segmented])
def test_bfloat16_is_for_those_who_ask_and_only_where_a_sample_is_alike(root, monkeypatch, stage):
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: True)
    plain = stage(root, "")
    assert data(stage(root, "float32")) == data(plain)
    for limit in ("SAME_LABELS", "SAME_IMAGE"):
        monkeypatch.setattr(inference, limit, 2.0 if limit == "SAME_LABELS" else 0.0)
    strict = stage(root, "auto")
    assert data(strict) == data(plain)
    assert "precision" not in {*plain.measures, *strict.measures}
    for limit in ("SAME_LABELS", "SAME_IMAGE"):
        monkeypatch.setattr(inference, limit, 0.0 if limit == "SAME_LABELS" else 2.0)
    easy = stage(root, "auto")
    assert easy.measures["precision"] == "bfloat16"
    assert data(easy) != data(plain)


def test_a_pair_that_a_gpu_does_not_hold_is_registered_on_the_cpu_and_that_is_said(root):
    class Greedy(torch.nn.Module):
        """Runs out of memory once."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, pair):
            self.calls += 1
            if self.calls == 1:
                raise torch.OutOfMemoryError
            return torch.zeros(1, 3, *pair.shape[2:])

    section = regseg_section(root)
    section["default"] |= {"segment": False, "deformable": section["default"]["deformable"] | {"method": "network", "refine_steps": 0}}
    network = Greedy()
    (model,) = joint().values()
    # "cpu:0" stands for a GPU: it is not "cpu"
    model = type(model)(model.card, network, model.segment, "cpu:0")
    images = [as_image(f"1_{m}", head(m, (8, 8, 8))) for m in ("T1w", "CT")]
    made = {each.of: each for each in regseg(images, section, {"m": model}, 0) if not each.tag}
    assert network.calls == 2
    assert "registered on the CPU" in made["1_CT"].measures["fallback"]
    assert np.isfinite(made["1_CT"].measures["mi_after"])
