"""What explains a class: maps find what was planted, add up, and are gone with the weights; features add up exactly."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, sobel
from torch import nn

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.classifier import Classifier
from cohortex.models.classify.committee import as_one
from cohortex.models.classify.fusion import Fusion, log_softmax
from cohortex.models.classify.logistic import fit_logistic, predict_logits
from cohortex.models.classify.regrid import apply_weights, axis_weights, input_affine, network_input
from cohortex.models.classify.scans import Vectors
from cohortex.models.classify.why import METHODS, explain, feature_layer, grad_cam, integrated_gradients, occlusion, unit
from cohortex.models.classify.why_features import contributions, permutation_importance, term_names
from cohortex.models.classify.why_sanity import for_card, layers_from_output, randomise, rank_correlation, sanity_check
from cohortex.models.registry import build
from cohortex.report.pictures import LAID_OVER
from cohortex.stages.classify_why import TAGS, reasons
from cohortex.stages.export import name_all, sidecar
from cohortex.volume import Volume

EDGE = {2: 24, 3: 14}
STEPS = {2: 60, 3: 50}


def planted(dimensions: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noisy inputs (n, 1, *space) with a dark spot each, whether they have a bright lesion, and the masks of the last of these."""
    rng = np.random.default_rng(seed)
    space = (EDGE[dimensions],) * dimensions
    grid = np.stack(np.meshgrid(*map(np.arange, space), indexing="ij"))
    x = rng.normal(0, 0.3, (count, 1, *space)).astype(np.float32)
    y, masks = np.arange(count) % 2, np.zeros((count, *space), bool)
    for i in range(count):
        for sign in (-2.0, 2.0)[: 1 + y[i]]:
            centre = rng.uniform(3, EDGE[dimensions] - 4, dimensions)
            near = (np.abs(grid - centre.reshape(-1, *[1] * dimensions)) < 2.5).all(axis=0)
            x[i, 0][near] += sign
            masks[i] = near
    return x, y, masks


def tiny(dimensions: int) -> nn.Module:
    torch.manual_seed(dimensions)
    if dimensions == 3:
        return build("classify", "smallcnn3d", channels=1, classes=2, widths=[8, 16], dropout=0.0)
    return build("classify", "motioncnn2d", channels=1, widths=[8, 16], dropout=0.0)


@pytest.fixture(scope="module", params=(2, 3), ids=("2d", "3d"))
def trained(request):
    dimensions = request.param
    network, (x, y, _) = tiny(dimensions), planted(dimensions, 64, 1)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    rng = np.random.default_rng(0)
    for _ in range(STEPS[dimensions]):
        rows = rng.permutation(len(y))[:32]
        loss = nn.functional.cross_entropy(network(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval().requires_grad_(False)
    new, truth, masks = planted(dimensions, 24, 2)
    right = network(torch.from_numpy(new)).argmax(dim=1).numpy() == truth
    assert right.mean() >= 0.8, "what has learned nothing has nothing to explain"
    with_lesion = np.flatnonzero(right & (truth == 1))
    return network, new[with_lesion], masks[with_lesion]


@pytest.mark.parametrize("method", METHODS)
def test_the_strongest_place_lies_in_the_lesion_more_often_than_by_chance(trained, method):
    network, inputs, masks = trained
    hits, chance = [], []
    for image, mask in zip(inputs[:8], masks, strict=False):
        found = explain(network, image, 1, method)
        assert found.shape == mask.shape
        assert (found.dtype, found.max()) == (np.float32, 1)
        assert found.min() >= 0
        # the coarsest grid has voxels four times as large
        near = binary_dilation(mask, np.ones((5,) * mask.ndim))
        hits.append(near[np.unravel_index(found.argmax(), found.shape)])
        chance.append(near.mean())
    assert np.mean(hits) >= 0.75 > 2 * np.mean(chance)


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(trained):
    network, inputs, _ = trained
    for image in inputs[:3]:
        found = integrated_gradients(network, image, 1, tolerance=0.01)
        ends = network(torch.from_numpy(np.stack([image, np.zeros_like(image)])))[:, 1].double()
        assert found.difference == pytest.approx(float(ends[0] - ends[1]))
        assert found.values.sum() == pytest.approx(found.difference, rel=0.01)
        assert found.gap <= 0.01
        assert integrated_gradients(network, image, 1, batch=3).values == pytest.approx(found.values, abs=1e-4)


def test_attributions_of_a_linear_network_are_its_weights_times_the_input():
    network = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    image = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    weights = network[1].weight[2].detach().numpy().reshape(2, 4, 4)
    found = integrated_gradients(network, image, 2, baseline=0.5)
    assert found.values == pytest.approx(weights * (image - 0.5), abs=1e-5)
    assert found.gap < 1e-4


def test_occlusion_is_the_fall_of_the_probability_and_does_not_depend_on_the_batch():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    image = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)
    found = occlusion(network, image, 1, size=(1, 2), step=(1, 2))
    before = network(torch.from_numpy(image[None])).softmax(dim=1)[0, 1].item()
    hidden = image.copy()
    hidden[0, 2, 2:4] = 0
    after = network(torch.from_numpy(hidden[None])).softmax(dim=1)[0, 1].item()
    assert found[2, 2] == found[2, 3] == pytest.approx(before - after, abs=1e-6)
    assert occlusion(network, image, 1, size=(1, 2), step=(1, 2), batch=3) == pytest.approx(found, abs=1e-7)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    nn.init.constant_(sure[1].bias, 0.0)
    sure[1].bias.data[1] = 60.0
    assert np.abs(occlusion(sure, image, 1, size=(2, 2))).max() > 0, "also where the probability is 1 in single precision"


def test_grad_cam_is_the_weighted_sum_of_the_channels():
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*network, nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    image = np.random.default_rng(1).normal(size=(1, 6, 5)).astype(np.float32)
    channels = network[:4](torch.from_numpy(image[None]))[0]
    expected = torch.relu((network[-1].weight[1][:, None, None] / 30 * channels).sum(dim=0))
    assert feature_layer(network, image) == "3"
    assert grad_cam(network, image, 1) == pytest.approx(expected.double().numpy(), abs=1e-6)
    assert grad_cam(network, image, 1, layer="1").shape == (6, 5)
    with pytest.raises(Refused, match="no layer 'conv9'"):
        grad_cam(network, image, 1, layer="conv9")
    with pytest.raises(Refused, match="gives no maps"):
        grad_cam(network, image, 1, layer="6")


def test_a_network_that_only_cuts_patches_is_refused_and_its_mode_is_left_as_it_was():
    patches = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 2)).train()
    image = np.random.default_rng(1).normal(size=(1, 8, 8)).astype(np.float32)
    with pytest.raises(Refused, match="occlusion or integrated_gradients"):
        explain(patches, image, 0, "grad_cam")
    assert explain(patches, image, 0, "occlusion") == pytest.approx(explain(patches, image, 0, "occlusion"))
    assert all(module.training for module in patches.modules())


def test_the_map_of_a_committee_is_the_mean_over_its_members_and_views():
    image = planted(2, 1, 0)[0][0]
    members = [tiny(2).eval().requires_grad_(False), build("classify", "smallresnet2d", widths=[4, 8]).eval().requires_grad_(False)]
    single = [unit(grad_cam(member, image, 1)) for member in members]
    assert grad_cam(as_one(members), image, 1) == pytest.approx(np.mean(single, axis=0))
    flipped = unit(grad_cam(members[0], image[:, ::-1], 1))[::-1]
    assert grad_cam(as_one(members[:1], mirrored=True), image, 1) == pytest.approx((single[0] + flipped) / 2)
    assert feature_layer(as_one(members[:1], subclasses=2), image) == "members.0.blocks"
    assert grad_cam(as_one([build("classify", "smallresnet2d", classes=4)], subclasses=2), image, 1).shape == image.shape[1:]


@pytest.mark.parametrize(
    ("name", "options", "shape", "layer"),
    [
        ("resnet18", {}, (1, 64, 64), "body.stages.3"),
        ("slice_rnn", {"width": 4}, (1, 32, 32, 5), "slices.stages."),
        ("browse_focus", {"backbone": "resnet", "blocks": [1, 1], "width": 8, "stem": "small", "bottleneck": False}, (1, 32, 32), "whole."),
    ],
)
def test_the_last_maps_of_networks_of_the_registry_are_found(name, options, shape, layer):
    network = build("classify", name, channels=1, classes=2, **options).eval()
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert feature_layer(network, image).startswith(layer)
    assert grad_cam(network, image, 1).shape == shape[1:]


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_the_map_of_a_picture_lies_on_the_picture(trained):
    network, inputs, masks = trained
    picture = np.kron(inputs[0, 0], np.ones((2, 2), np.float32))[:, :, None]
    volume = Volume(picture, np.diag([0.5, 0.5, 1.0, 1.0]), "XR", body_part="chest")
    scan = Image("a_XR", "a", "", "XR", "image", opener=lambda: volume)
    seen = {"size": [EDGE[2], EDGE[2]], "spacing_mm": None, "labels": False, "values": "cohort"}
    card = {"name": "toy", "classes": ["no", "yes"], "extra": {"input": seen, "sanity": {"grad_cam": {"verdict": "passed"}}}}
    classifier = Classifier(card, None, network, Fusion(np.ones(1), np.ones(1)))
    found = reasons(scan, [scan], classifier, 1, Vectors([scan]), "grad_cam")
    (made,) = found.made
    values = made.content.array()
    near = np.kron(binary_dilation(masks[0], np.ones((5, 5))), np.ones((2, 2), bool))
    assert values.shape == picture.shape
    assert near[np.unravel_index(values[:, :, 0].argmax(), near.shape)]
    assert found.measures == {"why_method": "grad_cam", "randomisation_check": "passed"}
    assert set(found.previews) == {"why_this_class_axial_before", "why_this_class_axial_after"}
    row = {"acq": "", "run": ""}
    named = Image(
        "a_XR+gradcam", "a", "", "XR", "image", entities=made.entities, row=row, sources=made.sources, opener=lambda: made.content
    )
    targets = name_all([Image("a_XR", "a", "", "XR", "image", row=row, opener=lambda: volume), named], {"default": {}})
    assert [target.path for target in targets] == ["sub-a/xr/sub-a_desc-cohortex_XR.nii.gz", "sub-a/xr/sub-a_desc-gradcam_XR.nii.gz"]
    assert sidecar(targets[1], targets)["Units"].startswith("what speaks for the predicted class, 0 (nothing")
    assert set(LAID_OVER) >= {f"+{tag}" for tag in TAGS.values()}
    assert set(TAGS) == set(METHODS)


def test_maps_are_gone_with_the_weights_and_an_edge_detector_is_caught(trained):
    network, inputs, _ = trained
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, ones = list(inputs[:3]), [1, 1, 1]
    found = sanity_check(network, lambda *given: explain(*given, "grad_cam"), images, ones, seed=0, stages=3)
    assert found.passed
    assert found.told()["verdict"] == "passed"
    assert abs(found.rank[-1]) < 0.5
    assert len(found.layers) == len(found.rank) == 3
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def edges(network: nn.Module, image: np.ndarray, target: int) -> np.ndarray:
        return np.sqrt(sum(sobel(image[0], axis=axis) ** 2 for axis in range(image.ndim - 1)))

    caught = sanity_check(network, edges, images, ones, seed=0, stages=1)
    assert (caught.passed, caught.rank[-1], caught.ssim[-1]) == (False, pytest.approx(1), pytest.approx(1))
    flat = sanity_check(network, lambda network, image, target: np.zeros(image.shape[1:]), images, ones, seed=0, stages=1)
    assert (flat.passed, flat.images) == (False, 0)


def test_the_cascade_goes_from_the_output_to_the_input():
    network = tiny(2)
    image = planted(2, 1, 0)[0][0]
    order = layers_from_output(network, image)
    assert order[0] == "head"
    assert order[-1] == "blocks.0.0"
    randomise(dict(network.named_modules())["blocks.0.1"], torch.Generator().manual_seed(0))
    assert torch.equal(network.blocks[0][1].weight, torch.ones(8))


def test_the_card_has_the_check_of_every_method_that_suits_the_network():
    network = tiny(2).eval()
    x, y, _ = planted(2, 4, 0)
    assert sorted(for_card(network, x, y, "integrated_gradients", 0)) == ["grad_cam", "integrated_gradients"]
    assert for_card(network, x, y, None, 0) == for_card(network, x, y, "grad_cam", 0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(EDGE[2] ** 2, 2))
    assert for_card(linear, x, y, None, 0) == {}


def test_rank_correlation_knows_order_only():
    values = np.random.default_rng(0).normal(size=(5, 6))
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(values, np.ones_like(values)) == 0


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.normal(size=(count, 6))
    x[:, 2] += 2 * y
    x[:, 4] -= y == 1
    x[rng.random(count) < 0.3, 5] = np.nan
    return x, y


def test_contributions_of_features_are_exact():
    x, y = rows(90, 0)
    model = fit_logistic(x, y, np.arange(90), 3, seed=0)
    shares, intercept = contributions(model, x)
    names = term_names(model, [f"f{i}" for i in range(6)])
    assert shares.shape == (90, 3, len(names))
    assert log_softmax(shares.sum(axis=2) + intercept) == pytest.approx(predict_logits(model, x), abs=1e-9)
    assert shares.sum(axis=1) == pytest.approx(0, abs=1e-9)
    assert names[int(np.abs(shares[:, 2]).mean(axis=0).argmax())] == "f2"
    assert "f5_missing" in names


def test_shuffling_the_feature_that_tells_classes_apart_hurts_any_estimator_most():
    from sklearn.ensemble import RandomForestClassifier

    x, y = rows(120, 0)
    x = np.nan_to_num(x)
    forest = RandomForestClassifier(20, random_state=0).fit(x[:80], y[:80])
    found = permutation_importance(forest.predict_proba, x[80:], y[80:], seed=0, repeats=5)
    assert int(found.mean.argmax()) == 2
    assert found.mean[2] > 5 * np.abs(np.delete(found.mean, [2, 4])).max()
    together = permutation_importance(forest.predict_proba, x[80:], y[80:], seed=0, repeats=5, groups=[[0, 1], [2, 4]])
    assert together.mean[1] > found.mean[2] > together.mean[0]
    assert found.loss == together.loss > 0


def test_what_the_network_sees_is_found_again_on_the_scan():
    labels = np.zeros((30, 26, 24), np.uint8)
    labels[8:25, 6:20, 5:18] = 2
    image = np.where(labels > 0, 10.0, 0.0).astype(np.float32)
    image[20, 9, 14] = 2000.0
    affine = np.array([[0, -1.5, 0, 20], [2.0, 0, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1]], float)
    shown = network_input(image, labels, (2.0, 1.5, 2.5), (16, 16, 16), 3.0)
    grid = input_affine(image, labels, affine, (16, 16, 16), 3.0)
    peak = np.unravel_index(shown[0].argmax(), shown[0].shape)
    voxel = np.linalg.inv(affine) @ grid @ [*peak, 1]
    assert np.abs((voxel[:3] - (20, 9, 14)) * (2.0, 1.5, 2.5)).max() <= 1.5 + 1e-6
    assert np.linalg.norm(grid[:3, :3], axis=0) == pytest.approx(3.0)
    # axis weights stay what they were
    assert apply_weights(image, [axis_weights(n, 1.0, np.arange(n), 1.0) for n in image.shape]) == pytest.approx(image)
