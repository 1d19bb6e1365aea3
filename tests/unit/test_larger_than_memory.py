"""Stages on a volume that does not stay in memory give the bytes that they give where it does."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cohortex import survey
from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.filters.blockwise import run_chain
from cohortex.filters.chain import FILTERS, STEPS
from cohortex.filters.foreground import Repeated, foreground
from cohortex.filters.resample import resample
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.io.scratch import Scratch
from cohortex.io.sharded import Sharded, publish_sharded
from cohortex.items import Image, Made
from cohortex.models import registry
from cohortex.models.classify.classifier import Classifier
from cohortex.models.classify.features import scan_names
from cohortex.models.classify.fusion import Fusion
from cohortex.models.folder import Loaded
from cohortex.models.regseg import segment as segmenting
from cohortex.stages.acquire import acquire
from cohortex.stages.classify import classify
from cohortex.stages.denoise import denoise
from cohortex.stages.export import label_names
from cohortex.stages.preprocess import preprocess
from cohortex.stages.regseg import regseg
from cohortex.stages.superresolve import superresolve
from cohortex.volume import Volume
from tests.large_heads import CARD, as_image, head, joint, regseg_section


def phantom(shape, spacing, modality):
    x, y, z = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    body = (x**2 + y**2 + z**2 < 0.7) * 300.0 + (np.abs(x) < 0.2) * 200.0
    noise = np.random.default_rng(0).normal(0, 20, shape)
    return Volume((body + noise + (modality == "CT") * -500).astype(np.float32), np.diag([*spacing, 1.0]), modality, body_part="head")


def network(task, name, **options):
    torch.manual_seed(0)
    return {"m": Loaded({**CARD, "network": name, "options": options}, registry.build(task, name, **options).eval(), "cpu")}


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
    "subslice": (
        superresolve,
        {"method": "subslice", "weights": "m"},
        lambda: network("superresolve", "subslice", channels=4, blocks=1),
        "T2w",
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_gives_the_same_bytes_and_measures_in_blocks(tmp_path, monkeypatch, name):
    stage, settings, load, modality = STAGES[name]
    slim = name in ("redcnn", "srcnn3d", "subslice")
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
    ((name, parameters),) = link.items()
    assert name in STEPS
    volume = phantom((130, 40, 9), (1, 1.5, 2), "CT")
    array = np.asarray(volume.data)
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        made = run_chain(array, volume.spacing, [link])
    assert made[...].tobytes() == FILTERS[name](array, volume.spacing, **parameters).tobytes()


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


def classifier() -> dict[str, Classifier]:
    torch.manual_seed(0)
    extra = {
        "modalities": ["T1w", "CT"],
        "features": [],
        "grain": {"spacing_mm": 4.0, "bins": 16},
        "input": {"size": [20, 24, 22], "spacing_mm": 6.0},
        "needs_labels": True,
        "parts": ["cnn"],
    }
    network = registry.build("classify", "smallcnn3d", classes=2).eval()
    return {"m": Classifier(CARD | {"classes": ["a", "b"], "extra": extra}, None, network, Fusion(np.ones(1), np.ones(1)))}


def told(made: list[Made], folder) -> dict:
    """Return what a stage made of a subject: the bytes of every file, measures and pictures."""
    folder.mkdir()
    found = {}
    for each in made:
        name, content = f"{each.of}+{each.tag}", each.content
        if isinstance(content, Volume):
            write_ozx(folder / f"{name}.ozx", content)
            content = (folder / f"{name}.ozx").read_bytes()
        elif isinstance(content, np.ndarray):
            content = content.tobytes()
        pictures = {picture: array.tobytes() for picture, array in each.previews.items()}
        found[name] = (repr(content) if isinstance(content, dict) else content, each.measures, each.status, each.reason, pictures)
    return found


@pytest.fixture(scope="module")
def in_memory(root, tmp_path_factory):
    """What both stages make of a subject that fits into memory."""
    folder = tmp_path_factory.mktemp("whole")
    scans = {"1_T1w": head("T1w"), "1_CT": head("CT", bulge_mm=7.0)}
    scans = {name: volume.with_data(volume.array()) for name, volume in scans.items()}
    images = [as_image(name, volume) for name, volume in scans.items()]
    truth = {name: volume.with_data((volume.array() > 80).astype(np.uint16) * 3, kind="labels") for name, volume in scans.items()}
    images += [as_image(f"{name}+labels", volume) for name, volume in truth.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "LARGEST", 2**14)
        patch.setattr(segmenting, "BLOCK", (32, 32, 32))
        patch.setattr(segmenting, "CONTEXT", 8)
        made = regseg(images, regseg_section(root), joint(), 0)
        assert all(len(np.unique(m.content.array())) > 4 for m in made if m.tag.endswith("seg"))
        derived = [as_image(f"{m.of}+{m.tag}", m.content) for m in made if isinstance(m.content, Volume) and m.content.kind != "field"]
        tables = classify([*images, *derived], {"default": {"weights": "m"}}, classifier(), 0)
    return images, derived, told(made, folder / "regseg"), told(tables, folder / "classify")


@pytest.mark.parametrize("memory_mb", [8, 0])
def test_a_subject_gives_the_same_bytes_and_measures_in_blocks(tmp_path, monkeypatch, root, in_memory, memory_mb):
    images, derived, wanted, tables = in_memory
    monkeypatch.setattr(survey, "LARGEST", 2**14)
    monkeypatch.setattr(segmenting, "BLOCK", (32, 32, 32))
    monkeypatch.setattr(segmenting, "CONTEXT", 8)
    assert {"1_CT+warped", "1_CT+field", "1_CT+warpedseg", "1_T1w+CTseg", "1_CT+warpedlabels", "1_T1w+seg", "1_CT+seg"} <= set(wanted)
    with planned(Plan(threads=2, memory_mb=memory_mb, scratch=tmp_path)):
        files = [as_image(i.id, i.volume, tmp_path / f"{i.id}.ozx") for i in images]
        made = regseg(files, regseg_section(root), joint(), 0)
        for each in made:
            if isinstance(each.content, Volume) and (each.content.kind != "labels" or memory_mb == 0):
                assert isinstance(each.content.data, Scratch), each.tag
        assert told(made, tmp_path / "made") == wanted
        del made
        assert not list(tmp_path.glob(".scratch.*"))
        files += [as_image(i.id, i.volume, tmp_path / f"{i.id}.ozx") for i in derived]
        found = classify(files, {"default": {"weights": "m"}}, classifier(), 0)
    assert told(found, tmp_path / "tables") == tables
    features = next(each for each in found if each.tag == "features").content
    assert len(features["feature"]) >= len(scan_names())
    assert np.isfinite(features["value"]).sum() > 40
    assert any(each.tag == "class" for each in found)


def test_features_of_a_region_that_is_too_large_are_left_out_with_the_reason(monkeypatch, in_memory):
    images, derived, *_ = in_memory
    monkeypatch.setattr("cohortex.models.classify.features.LARGEST", 1000)
    made = {(each.of, each.tag): each for each in classify([*images, *derived], {"default": {"weights": "m"}}, classifier(), 0)}
    # the network's box is small, so it decides all the same
    assert made["1_T1w", ""].status == "ok"
    assert ("1_T1w", "features") not in made
    word = {each.of: each for each in classify([*images, *derived], {"default": {}}, {}, 0)}["1_T1w"]
    assert (word.status, word.code) == ("skipped", "region-too-large")
    assert "at most 1000 voxels" in word.reason


def test_a_subject_goes_through_a_process_that_could_not_hold_it(root, tmp_path):
    spacing = (0.8, 0.9, 0.9)
    for name, volume in {
        "1_T1w": head("T1w", spacing),
        "1_CT": head("CT", spacing, 7.0),
        "1_T1w+seg": head("T1w", spacing, labels=True),
    }.items():
        write_ozx(tmp_path / f"{name}.ozx", volume)
    one_mb = int(np.prod(volume.shape)) * 4 // 2**20
    line = [sys.executable, "-m", "tests.large_heads", str(tmp_path), "16", str(one_mb * 3 // 2)]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
