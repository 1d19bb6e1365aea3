"""Model folders: what is written is read again, and whatever is wrong is refused in a sentence."""

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from cohortex.errors import Refused
from cohortex.models import folder as folders
from cohortex.volume import Volume


def card(**changes):
    return {
        "name": "small",
        "task": "superresolve",
        "network": "srcnn3d",
        "modality": ["T1w", "T2w"],
        "body_part": ["head"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.5, "max": 4.0},
        "data": "noise",
        "recipe": {"steps": 0},
        "seed": 1,
        "metrics": [{"name": "PSNR dB", "value": np.float32(1.5), "low": 1, "high": 2, "n": 3}],
        "intended_use": "tests",
        "limits": "everything else",
        **changes,
    }


@pytest.fixture(scope="module")
def tensors():
    from cohortex.models import registry

    return registry.build("superresolve", "srcnn3d").state_dict()


@pytest.fixture
def model(tmp_path, tensors):
    folders.write_model(tmp_path / "m", card(), tensors)
    return tmp_path / "m"


def volume(modality="T1w", body_part="head", shape=(4, 4, 4), spacing=(1, 1, 3)):
    return Volume(np.zeros(shape, np.float32), np.diag([*spacing, 1]), modality=modality, body_part=body_part)


def edit_card(folder, **changes):
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_a_written_model_is_read_again(model, tensors):
    read, arrays = folders.read_model(model)
    assert read["metrics"][0]["value"] == 1.5
    assert folders.model_sha256(model) == read["sha256"]
    assert set(arrays) == set(tensors)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, tensors[name].numpy())


def test_equal_tensors_give_equal_bytes_whatever_their_order(tmp_path, tensors):
    folders.write_model(tmp_path / "a", card(), tensors)
    folders.write_model(tmp_path / "b", card(), dict(reversed(tensors.items())))
    for file in ("card.yaml", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_writing_replaces_a_model_and_leaves_nothing_beside_it(model, tensors):
    folders.write_model(model, card(name="second"), tensors)
    assert folders.read_card(model)["name"] == "second"
    assert [p.name for p in model.parent.iterdir()] == ["m"]


def test_a_tensor_that_is_not_finite_is_named(tmp_path, tensors):
    spoilt = {**tensors, "mapping.bias": np.full(32, np.nan, np.float32)}
    with pytest.raises(Refused, match=r"mapping\.bias"):
        folders.write_model(tmp_path / "m", card(), spoilt)
    assert not (tmp_path / "m").exists()


def test_a_tensor_that_is_not_finite_is_named_when_read(model):
    raw = save({"mapping.bias": np.array([np.inf], np.float32)})
    (model / "model.safetensors").write_bytes(raw)
    edit_card(model, sha256=folders.model_sha256(model))
    with pytest.raises(Refused, match=r"mapping\.bias"):
        folders.read_model(model)


@pytest.mark.parametrize("keep", [0, 4, 100, 1000, -1])
def test_cut_weights_are_refused(model, keep):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Refused, match=r"model\.safetensors"):
        folders.read_model(model)


def test_weights_that_are_not_safetensors_are_refused_even_with_their_hash(model):
    (model / "model.safetensors").write_bytes((20).to_bytes(8, "little") + b"{not json at all....}" + bytes(50))
    edit_card(model, sha256=folders.model_sha256(model))
    with pytest.raises(Refused, match="safetensors"):
        folders.read_model(model)


def test_other_weights_than_the_cards_are_refused(model):
    (model / "model.safetensors").write_bytes(save({"a": np.zeros(3, np.float32)}))
    with pytest.raises(Refused, match="sha256"):
        folders.read_model(model)


def test_an_unknown_key_of_a_card_is_named(model):
    edit_card(model, modalities=["T1w"])
    with pytest.raises(Refused, match="modalities"):
        folders.read_card(model)


def test_a_missing_key_of_a_card_is_named(model):
    path = model / "card.yaml"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("limits")))
    with pytest.raises(Refused, match="limits"):
        folders.read_card(model)


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "!!python/object/apply:os.getcwd []", "\x00"])
def test_a_card_that_is_no_card_is_refused(model, text):
    (model / "card.yaml").write_text(text)
    with pytest.raises(Refused, match=r"card\.yaml"):
        folders.read_card(model)


@pytest.mark.parametrize("file", ["card.yaml", "model.safetensors"])
def test_a_missing_file_is_named_without_the_path_of_the_machine(model, file):
    (model / file).unlink()
    with pytest.raises(Refused, match=file) as caught:
        folders.read_model(model)
    assert str(model.parent.parent) not in str(caught.value)


def test_a_loaded_network_computes_what_the_written_one_computes(model, tensors):
    import torch

    from cohortex.models import registry

    first = registry.build("superresolve", "srcnn3d")
    first.load_state_dict(tensors)
    second = folders.load_network(model)
    x = torch.rand(1, 1, 14, 14, 14)
    assert torch.equal(first.eval()(x), second(x))
    assert not any(p.requires_grad for p in second.parameters())


def test_weights_of_another_network_are_refused_with_the_first_five_keys(tmp_path, tensors):
    folders.write_model(tmp_path / "m", card(task="denoise", network="redcnn", options={"filters": 4}), tensors)
    with pytest.raises(Refused, match=r"missing encoder\.0\.weight") as caught:
        folders.load_network(tmp_path / "m")
    assert str(caught.value).count("missing") == 5
    assert "more" in str(caught.value)


def test_weights_of_another_size_are_refused(tmp_path):
    from cohortex.models import registry

    folders.write_model(
        tmp_path / "m",
        card(task="denoise", network="redcnn", options={"filters": 8}),
        registry.build("denoise", "redcnn", filters=4).state_dict(),
    )
    with pytest.raises(Refused, match="of shape"):
        folders.load_network(tmp_path / "m")


def test_the_parts_of_a_folder_are_loaded_by_their_prefix(tmp_path, tensors):
    both = {**tensors, **{f"second.{k}": v + 1 for k, v in tensors.items()}}
    folders.write_model(tmp_path / "m", card(parts={"second": {"network": "srcnn3d"}}), both)
    first, second = folders.load_network(tmp_path / "m"), folders.load_network(tmp_path / "m", part="second")
    assert np.allclose(first.state_dict()["mapping.bias"] + 1, second.state_dict()["mapping.bias"])
    with pytest.raises(Refused, match="no part 'third'"):
        folders.load_network(tmp_path / "m", part="third")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"modality": "CT"}, "not for CT"),
        ({"body_part": "chest"}, "not for the chest"),
        ({"body_part": ""}, "not known"),
        ({"shape": (4, 4, 1)}, "2-D"),
        ({"spacing": (1, 1, 5)}, "along z"),
        ({"spacing": (0.2, 1, 1)}, "along x"),
        ({"spacing": (1, 1, 4.01)}, None),
    ],
)
def test_a_model_says_why_it_does_not_fit(model, changes, reason):
    answer = folders.fits(folders.read_card(model), volume(**changes))
    assert answer is None if reason is None else reason in answer


def test_a_model_for_any_modality_and_body_part_fits_every_one():
    assert folders.fits(card(modality=["any"], body_part=["any"]), volume(modality="US", body_part="")) is None
