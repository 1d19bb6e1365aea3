"""Stages on a volume that does not stay in memory give the bytes that they give where it does."""

import numpy as np
import pytest
import torch

from cohortex import survey
from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.filters.blockwise import run_chain
from cohortex.filters.chain import STEPS, apply_chain
from cohortex.filters.foreground import Repeated, foreground
from cohortex.filters.resample import resample
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.io.scratch import Scratch
from cohortex.io.sharded import Sharded, publish_sharded
from cohortex.items import Image, Made
from cohortex.models import registry
from cohortex.models.folder import Loaded
from cohortex.stages.acquire import acquire
from cohortex.stages.denoise import denoise
from cohortex.stages.export import label_names
from cohortex.stages.preprocess import preprocess
from cohortex.stages.superresolve import superresolve
from cohortex.volume import Volume


def phantom(shape, spacing, modality):
    x, y, z = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    body = (x**2 + y**2 + z**2 < 0.7) * 300.0 + (np.abs(x) < 0.2) * 200.0
    noise = np.random.default_rng(0).normal(0, 20, shape)
    return Volume((body + noise + (modality == "CT") * -500).astype(np.float32), np.diag([*spacing, 1.0]), modality, body_part="head")


CARD = {
    "name": "m",
    "sha256": "0" * 64,
    "modality": ["any"],
    "body_part": ["any"],
    "dimensions": [2, 3],
    "spacing_mm": {"min": 0.1, "max": 9.0},
}


def network(task, name, **options):
    torch.manual_seed(0)
    return {"m": Loaded(CARD, registry.build(task, name, **options).eval(), "cpu")}


STAGES = {
    "filters": (preprocess, {"filters": [{"median": {}}, {"gaussian": {"sigma_mm": 1.0}}]}, lambda: None, "CT"),
    "window": (preprocess, {"normalise": "window", "window": [40, 400]}, lambda: None, "CT"),
    "percentile": (preprocess, {"bias_field": False, "normalise": "percentile"}, lambda: None, "T1w"),
    "spectrum, spline": (
        preprocess,
        {
            "n4": {"iterations": [3, 3]},
            "filters": [{"wiener": {"psf_sigma_mm": 1.0}}],
            "resample": {"spacing_mm": [0.8, 1.3, 0.9], "order": "cubic"},
        },
        lambda: None,
        "T1w",
    ),
    "transform": (denoise, {}, lambda: None, "T1w"),
    "redcnn": (denoise, {"method": "redcnn", "weights": "m"}, lambda: network("denoise", "redcnn", filters=2), "CT"),
    "spline": (superresolve, {"method": "spline"}, lambda: None, "T2w"),
    "srcnn3d": (superresolve, {"method": "srcnn3d", "weights": "m"}, lambda: network("superresolve", "srcnn3d"), "T2w"),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_gives_the_same_bytes_and_measures_in_blocks(tmp_path, monkeypatch, name):
    stage, settings, load, modality = STAGES[name]
    slim = name in ("redcnn", "srcnn3d")
    volume = phantom((70, 30, 8) if slim else (132, 40, 66), (1.0, 1.0, 3.0 if stage is superresolve else 1.0), modality)
    # Statistics come from cubes, as those of a large volume.
    monkeypatch.setattr(survey, "LARGEST", 2**14)
    write_ozx(tmp_path / "in.ozx", volume)

    def run(plan: Plan) -> tuple[Made, Volume]:
        with planned(plan):
            image = Image("1_x", "1", "", modality, "image", opener=lambda: read_ozx(tmp_path / "in.ozx"))
            made = stage(image, settings, load(), 0)
            assert isinstance(made.content, Volume)
            write_ozx(tmp_path / f"{plan.memory_mb}.ozx", made.content)
            return made, made.content

    whole, in_memory = run(Plan())
    blocked, lazy = run(Plan(threads=2, memory_mb=0, scratch=tmp_path))
    assert isinstance(in_memory.data, np.ndarray)
    assert isinstance(lazy.data, Scratch)
    assert whole.measures == blocked.measures
    assert (tmp_path / "0.ozx").read_bytes() == (tmp_path / "1024.ozx").read_bytes()
    assert lazy.sha256() == in_memory.sha256()
    del blocked, lazy
    assert not list(tmp_path.glob(".scratch.*"))


@pytest.mark.parametrize(
    "link", [{"median": {"radius_mm": 2.0}}, {"gaussian": {"sigma_mm": [1.0, 0.5, 2.0]}}, {"anisotropic_diffusion": {"kappa": 30.0}}]
)
def test_every_filter_with_a_halo_is_exact(tmp_path, link):
    assert next(iter(link)) in STEPS
    volume = phantom((130, 40, 9), (1, 1.5, 2), "CT")
    array = np.asarray(volume.data)
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        made = run_chain(array, volume.spacing, [link])
    assert made[...].tobytes() == apply_chain(array, volume.spacing, [link]).tobytes()


@pytest.mark.parametrize("flaw", ["none", "nan", "infinite"])
def test_an_image_that_is_read_in_parts_is_acquired_in_parts(tmp_path, flaw):
    volume = phantom((70, 40, 30), (1, 1.5, 2), "CT")
    array = Sharded.create(tmp_path, volume.shape)
    data = np.array(volume.data)
    data[60, 3, 7:9] = {"none": 0, "nan": np.nan, "infinite": np.inf}[flaw]
    array[:, :, :] = data
    turned = volume.affine[:, [2, 0, 1, 3]] @ np.diag([1.0, -1, 1, 1])
    publish_sharded(tmp_path / "in.ome.zarr", Volume(array, turned, "CT"))
    image = Image("1_CT", "1", "", "CT", "image", row={"path": str(tmp_path / "in.ome.zarr")})
    if flaw == "infinite":
        with planned(Plan(memory_mb=0, scratch=tmp_path)), pytest.raises(BadInput, match="2 infinite"):
            acquire(image, {}, None, 0)
        return
    whole = acquire(image, {}, None, 0)
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        parts = acquire(image, {}, None, 0)
    assert isinstance(whole, Made) and isinstance(whole.content, Volume)
    assert isinstance(parts, Made) and isinstance(parts.content, Volume)
    assert isinstance(parts.content.data, Scratch)
    assert whole.measures == parts.measures
    assert (parts.status, parts.measures["nan_voxels"]) == (("warned", 2) if flaw == "nan" else ("ok", 0))
    assert parts.content.array().tobytes() == whole.content.array().tobytes()
    assert np.array_equal(parts.content.affine, whole.content.affine)


@pytest.mark.parametrize("order", ["nearest", "linear"])
@pytest.mark.parametrize("grid", ["coarse", "turned", "shifted"])
def test_resampling_in_blocks_is_exact(tmp_path, grid, order):
    volume = phantom((70, 40, 30), (1, 1.5, 2), "CT")
    affine = {"coarse": np.diag([2.3, 3.1, 4.0, 1]), "shifted": np.diag([1.0, 1.5, 2, 1]), "turned": np.diag([0.9, 1.4, 1.9, 1])}[grid]
    affine[:3, 3] = {"coarse": (1.2, 0.3, -3), "shifted": (-3, 3, 4), "turned": (2, -1, 3)}[grid]
    if grid == "turned":
        affine[:2, :2] = affine[:2, :2] @ [[0.9, -0.3], [0.3, 0.9]]
    wanted = resample(volume, affine=affine, shape=(66, 35, 20), order=order)
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        made = resample(volume, affine=affine, shape=(66, 35, 20), order=order)
    assert isinstance(made.data, Scratch)
    assert made.array().tobytes() == wanted.array().tobytes()
    labels = Volume((np.asarray(volume.data) > 100).astype(np.uint8) * 3, volume.affine, kind="labels")
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        lazy = resample(labels, affine=affine, shape=(66, 35, 20), order=order)
    assert lazy.array().tobytes() == resample(labels, affine=affine, shape=(66, 35, 20), order=order).array().tobytes()
    field = Volume(np.random.default_rng(0).normal(size=(*volume.shape, 3)).astype(np.float32), volume.affine, kind="field")
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        lazy = resample(field, affine=affine, shape=(66, 35, 20), order=order)
    assert isinstance(lazy.data, Scratch)
    assert lazy.array().tobytes() == resample(field, affine=affine, shape=(66, 35, 20), order=order).array().tobytes()


def test_the_foreground_of_a_lazy_volume_is_that_of_the_array(tmp_path, monkeypatch):
    monkeypatch.setattr("cohortex.filters.foreground._LARGEST_AXIS", 24)
    volume = phantom((150, 61, 30), (1, 1, 1), "CT")
    write_ozx(tmp_path / "in.ozx", volume)
    mask = foreground(read_ozx(tmp_path / "in.ozx").data)
    assert isinstance(mask, Repeated)
    wanted = foreground(np.asarray(volume.data))
    assert np.array_equal(mask[...], wanted)
    assert np.array_equal(mask[3:90, 17, ...], wanted[3:90, 17])


def test_statistics_of_a_large_volume_look_at_cubes_spread_over_all_of_it():
    cubes = survey.spread((2048, 1024, 512))
    assert cubes is not None
    assert len(cubes) == survey.CUBES
    low, high = (np.array([[part[i] for part in box] for box in cubes]) for i in (0, 1))
    assert (high - low == 64).all()
    assert (low.min(0) < 200).all()
    assert (high.max(0) > np.array([2048, 1024, 512]) - 200).all()
    assert survey.spread((256, 256, 256)) is None


def test_labels_of_a_large_map_are_named_without_loading_it(tmp_path):
    labels = np.zeros((130, 20, 20), np.uint8)
    labels[3, 3, 3], labels[129, 1, 1] = 1, 6
    image = Image("1_x+seg", "1", "", "T1w", "labels", body_part="head", opener=lambda: Volume(labels, np.eye(4), kind="labels"))
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        assert list(label_names(image)) == ["1", "6"]
