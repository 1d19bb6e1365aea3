"""What the stage writes is read by ITK: affine and field compose, and one resampling gives the stage's own moved image."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import yaml

from cohortex.filters.gaussian import gaussian
from cohortex.items import Image
from cohortex.registration.fields import warped
from cohortex.stages.export import export
from cohortex.stages.regseg import regseg
from cohortex.volume import Volume

SHAPE = (48, 48, 48)
# Two grids that differ in origin, and in the direction of an axis.
FIXED = np.array([[-3.0, 0, 0, 71], [0, 3.0, 0, -69], [0, 0, 3.0, -66], [0, 0, 0, 1]])
MOVING = np.array([[-3.0, 0, 0, 68], [0, 3.0, 0, -75], [0, 0, 3.0, -62], [0, 0, 0, 1]])


def noise(seed: int, sigma: float, count: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
    return np.stack([gaussian(n, (1.0, 1.0, 1.0), sigma) for n in drawn])


@pytest.fixture(scope="module")
def exported(root, tmp_path_factory) -> tuple[Path, dict[str, str], np.ndarray]:
    """The folder of results, the file of everything in it, and the moving image's voxels."""
    away = np.sqrt(((np.indices(SHAPE) - 23.5) ** 2).sum(0))
    structure = noise(0, 1.5)[0]
    ball = np.where(away < 18, 150 + 60 * structure / structure.std(), 0).clip(0).astype(np.float32)
    truth = noise(1, 6.0, 3)
    truth *= 2.0 / np.linalg.norm(truth, axis=0)[away < 18].mean()
    scans = {"T1w": (warped(ball, truth), FIXED), "T2w": (np.where(ball > 0, 400 - ball, 0).astype(np.float32), MOVING)}

    def image(modality: str) -> Image:
        volume = Volume(*scans[modality], modality, "image", "head")
        return Image(f"1_{modality}", "1", "", modality, "image", body_part="head", opener=lambda: volume)

    section = yaml.safe_load((root / "config.yaml").read_text())["regseg"]
    default = section["default"] | {"weights": None, "segment": False, "working_spacing_mm": 6}
    images = [image("T1w"), image("T2w")]
    made = [m for m in regseg(images, {"default": default}, {}, 0) if m.tag]
    assert {m.tag for m in made} == {"warped", "affine", "field"}
    kinds = {"warped": "image", "affine": "transform", "field": "field"}

    def derived(m) -> Image:
        kind, name = kinds[m.tag], f"{m.of}+{m.tag}"
        return Image(name, "1", "", "T2w", kind, entities=m.entities, sources=m.sources, body_part="head", opener=lambda: m.content)

    results = tmp_path_factory.mktemp("results")
    there = export([*images, *(derived(m) for m in made)], {"default": {}, "results": str(results)}, None, 0)
    return results, {e.of: e.measures["exported"] for e in there}, scans["T2w"][0]


def test_the_names_are_those_of_bids(exported):
    _, names, _ = exported
    assert names["1_T2w+affine"] == "sub-1/anat/sub-1_from-T2w_to-T1w_mode-image_xfm.txt"
    assert names["1_T2w+field"] == "sub-1/anat/sub-1_from-T2w_to-T1w_mode-image_xfm.nii.gz"
    assert names["1_T2w+warped"] == "sub-1/anat/sub-1_space-T1w_desc-warped_T2w.nii.gz"


def test_itk_composes_affine_and_field_and_resamples_once_to_the_stages_image(exported):
    results, names, values = exported
    moving, fixed, stages = (
        SimpleITK.ReadImage(str(results / names[n]), SimpleITK.sitkFloat32) for n in ("1_T2w", "1_T1w", "1_T2w+warped")
    )
    affine = SimpleITK.ReadTransform(str(results / names["1_T2w+affine"]))
    vectors = SimpleITK.ReadImage(str(results / names["1_T2w+field"]), SimpleITK.sitkVectorFloat64)
    lengths = np.linalg.norm(SimpleITK.GetArrayFromImage(vectors), axis=-1)
    assert vectors.GetSize() == fixed.GetSize() and lengths.max() > 2
    # ITK goes through the last one first: a fixed point is displaced, then moved.
    both = SimpleITK.CompositeTransform([affine, SimpleITK.DisplacementFieldTransform(vectors)])
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, fixed, both, SimpleITK.sitkLinear)).T
    ours = SimpleITK.GetArrayFromImage(stages).T
    inner = (slice(5, -5),) * 3
    assert np.abs(theirs[inner] - ours[inner]).max() < 2e-3 * float(values.max())
    # Twice is not once: a grid between them blurs.
    halfway = SimpleITK.Resample(moving, fixed, affine, SimpleITK.sitkLinear)
    twice = SimpleITK.GetArrayFromImage(SimpleITK.Resample(halfway, fixed, both.GetNthTransform(1), SimpleITK.sitkLinear)).T
    assert np.abs(twice[inner] - ours[inner]).max() > 0.02 * float(values.max())
