"""The stage `preprocess`."""

import json

import jsonschema
import numpy as np
import pytest
import yaml

from cohortex.errors import BadInput
from cohortex.items import Image, settings_for
from cohortex.stages.preprocess import MAPS, preprocess
from cohortex.volume import Volume


def item(array, modality="T1w", spacing=(2.0, 2.0, 2.0)):
    volume = Volume(np.asarray(array, dtype=np.float32), np.diag([*spacing, 1.0]), modality)
    return Image(f"001_{modality}", "001", "", modality, "image", opener=lambda: volume)


def scan(shape=(32, 30, 26), seed=0):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape], indexing="ij")
    generator = np.random.default_rng(seed)
    clean = 400 * (x**2 + y**2 + z**2 < 0.7) + 300 * (x**2 + y**2 + z**2 < 0.2)
    clean = clean * np.exp(0.3 * x)
    return np.hypot(clean + 20 * generator.normal(size=shape), 20 * generator.normal(size=shape))


@pytest.fixture(scope="module")
def section(root):
    return yaml.safe_load((root / "config.yaml").read_text())["preprocess"]


@pytest.fixture(scope="module")
def schema(root):
    return json.loads((root / "schemas" / "stages" / "preprocess.json").read_text())


def test_the_shipped_section_fits_its_schema_and_holds_every_key(section, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    for settings in section.values():
        jsonschema.validate(settings, schema)
    assert set(section["default"]) == set(schema["properties"])
    assert set(section["default"]["n4"]) == set(schema["properties"]["n4"]["properties"])


def test_the_schema_knows_the_filters_and_their_parameters_and_no_others(schema):
    import inspect

    from cohortex.filters.chain import FILTERS

    known = schema["properties"]["filters"]["items"]["properties"]
    assert set(known) == set(FILTERS)
    for name, function in FILTERS.items():
        assert set(known[name]["properties"]) == set(inspect.signature(function).parameters) - {"array", "spacing_mm"}
    for wrong in ([{"blur": {}}], [{"gaussian": {"sigma": 1}}], [{"median": {}, "gaussian": {}}], [{"gaussian": {"sigma_mm": -1}}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"filters": wrong}, schema)


@pytest.mark.parametrize("shape", [(32, 30, 26), (30, 28, 9), (40, 36, 1), (7, 6, 4), (24, 20, 2)])
@pytest.mark.parametrize("modality", ["T1w", "FLAIR", "CT", "XR", "US", "T2map", "unheard"])
def test_any_modality_and_grid_comes_back_on_its_own_grid_with_its_measures(section, shape, modality):
    image = item(scan(shape) - (1000 if modality == "CT" else 0), modality, (1.0, 1.0, 4.0))
    made = preprocess(image, settings_for(section, modality), None, 0)
    assert isinstance(made.content, Volume)
    assert made.content.shape == shape
    assert made.content.data.dtype == np.float32
    assert np.array_equal(made.content.affine, image.volume.affine)
    assert {"foreground_share", "noise_sigma", "snr", "sharpness_per_mm"} <= set(made.measures)
    assert all(np.isfinite(value) for value in made.measures.values())
    # Too few voxels lie in the foreground of the smallest grid to fit a field to.
    assert ("bias_field_range" in made.measures) == (modality in ("T1w", "FLAIR") and shape != (7, 6, 4))
    if modality in MAPS:
        assert np.array_equal(made.content.array(), image.volume.array())


def test_the_default_keeps_zero_puts_the_foreground_into_0_to_1_and_flattens_the_shading(section):
    image = item(scan())
    made = preprocess(image, settings_for(section, "T1w"), None, 0)
    values = made.content.array()
    assert values.min() >= 0
    assert np.percentile(values[values > 0.3], 99.5) == pytest.approx(1, abs=0.05)
    assert made.measures["bias_field_range"] > 1.15
    left, right = image.volume.array()[6:10, 12:18, 10:16].mean(), image.volume.array()[22:26, 12:18, 10:16].mean()
    assert values[22:26, 12:18, 10:16].mean() / values[6:10, 12:18, 10:16].mean() < 0.5 * (right / left - 1) + 1
    assert [step["step"] for step in made.content.history] == ["bias_field", "normalise"]


def test_the_noise_is_measured_in_tissue_and_air(section):
    settings = settings_for(section, "T1w") | {"bias_field": False, "normalise": "none", "magnitude": True}
    measures = preprocess(item(scan((40, 40, 40))), settings, None, 0).measures
    assert measures["noise_sigma"] == pytest.approx(20, rel=0.2)  # edges add a little
    assert measures["noise_air_sigma"] == pytest.approx(20, rel=0.1)
    assert measures["foreground_share"] == pytest.approx(4 / 3 * np.pi * 0.7**1.5 / 8, rel=0.1)
    assert 15 < measures["snr"] < 30


def test_dark_tissue_around_a_bright_one_is_not_taken_for_air(section):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")
    tissue = 150 + 80 * np.sin(3 * x) * np.cos(2 * y + z) + 600 * (x**2 + y**2 + z**2 < 0.4)
    settings = settings_for(section, "T1w") | {"bias_field": False, "magnitude": True}
    measures = preprocess(item(tissue + np.random.default_rng(0).normal(0, 5, tissue.shape)), settings, None, 0).measures
    assert "noise_air_sigma" not in measures


def test_filters_run_in_their_order_and_their_edge_loss_is_told(section):
    from cohortex.filters.gaussian import gaussian
    from cohortex.filters.median import median

    chain = [{"median": {"radius_mm": 2.0}}, {"gaussian": {"sigma_mm": 3.0}}]
    settings = settings_for(section, "CT")
    image = item(scan(), "CT")
    made = preprocess(image, settings | {"filters": chain}, None, 0)
    spacing = (2.0, 2.0, 2.0)
    assert np.array_equal(made.content.array(), gaussian(median(image.volume.array(), spacing, radius_mm=2.0), spacing, sigma_mm=3.0))
    assert made.measures["edge_loss_share"] > 0.1
    assert made.content.history[-1]["filters"] == chain


def test_resampling_keeps_the_field_of_view(section):
    settings = settings_for(section, "CT") | {"resample": {"spacing_mm": [3.0, 3.0, 3.0]}}
    image = item(scan(), "CT")
    made = preprocess(image, settings, None, 0)
    assert made.content.spacing == pytest.approx((3, 3, 3))
    assert made.content.shape == (21, 20, 17)
    assert made.content.history[-1]["step"] == "resample"


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.where(np.arange(8 * 8 * 8).reshape(8, 8, 8) == 5, np.nan, 1), "not-finite"),
        (np.full((8, 8, 8), np.inf), "not-finite"),
        (np.full((8, 8, 1), 7.0), "constant"),
        (np.zeros((8, 8, 8)), "constant"),
    ],
)
def test_an_image_that_nothing_can_be_done_with_is_bad_input(section, array, code):
    with pytest.raises(BadInput, match="001_T1w") as caught:
        preprocess(item(array), settings_for(section, "T1w"), None, 0)
    assert caught.value.code == code


def test_a_spacing_in_the_wrong_unit_is_bad_input(section):
    with pytest.raises(BadInput, match="mm") as caught:
        preprocess(item(scan(), "CT"), settings_for(section, "CT") | {"resample": {"spacing_mm": [0.001] * 3}}, None, 0)
    assert caught.value.code == "grid-too-large"


@pytest.mark.parametrize("method", ["zscore", "percentile", "window", "none"])
def test_every_normalisation_can_be_chosen(section, method):
    made = preprocess(item(scan()), settings_for(section, "T1w") | {"normalise": method, "bias_field": False}, None, 0)
    assert [step["method"] for step in made.content.history] == ([] if method == "none" else [method])
