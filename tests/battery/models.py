"""Model folders: what would run code, is cut, is not what its card says, or belongs to another network."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from cohortex.models import registry
from cohortex.models.folder import load_network, read_model, write_model
from cohortex.publish import file_sha256
from tests.battery.case import Case
from tests.unit.test_models_folder import card

CARD = card(modality=["T1w"], metrics=[])
WEIGHTS = "model.safetensors"


class Touch:
    """What a pickle of it does when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def model(folder: Path, spoil: Callable[[Path], Any], keep_sum: bool = False) -> None:
    """Write a model folder, spoil it, and load it as a stage does; with `keep_sum` the card's sum becomes that of the spoilt weights."""
    torch.manual_seed(0)
    write_model(folder / "m", CARD, registry.build("superresolve", "srcnn3d").state_dict())
    spoil(folder / "m")
    if keep_sum:
        change(folder / "m", sha256=file_sha256(folder / "m" / WEIGHTS))
    try:
        read_model(folder / "m")
        load_network(folder / "m", "cpu")
    finally:
        assert not (folder / "P").exists(), "the weights were run"


def change(folder: Path, **values: Any) -> None:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def of(spoil: Callable[[Path], Any], keep_sum: bool = False) -> Callable[[Path], None]:
    return lambda folder: model(folder, spoil, keep_sum)


def run_when_read(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Touch(folder.parent / "P")))


def torch_pickle(folder: Path, name: str = "model.pt") -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"weights": Touch(folder.parent / "P")}, folder / name)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-50])


def absurd(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}" * 40)


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def spoilt(value: float) -> Callable[[Path], None]:
    """Return what puts a number into a tensor."""

    def put(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in registry.build("superresolve", "srcnn3d").state_dict().items()}
        next(iter(tensors.values())).view(-1)[3] = value
        save_file(tensors, folder / WEIGHTS)

    return put


def other_network(folder: Path) -> None:
    save_file({"layer.weight": torch.zeros(3, 3)}, folder / WEIGHTS)


def other_size(folder: Path) -> None:
    tensors = registry.build("superresolve", "srcnn3d").state_dict()
    name = next(iter(tensors))
    tensors[name] = torch.zeros(2, *tensors[name].shape[1:])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def archive(folder: Path) -> None:
    """Put a bundle that would write outside in place of the folder's weights."""
    with zipfile.ZipFile(folder / WEIGHTS, "w") as bundle:
        bundle.writestr("../P", "x")


def code_in_the_card(folder: Path) -> None:
    change(folder, network={"_target_": "os.system", "command": f"touch {folder.parent / 'P'}"})


def expression(folder: Path) -> None:
    change(folder, network=f"$__import__('os').system('touch {folder.parent / 'P'}')")


def bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle, bundle.open("a", "w") as inside:
        for _ in range(64):
            inside.write(bytes(2**20))


def out_of_the_folder(folder: Path) -> None:
    change(folder, network="../../os:system")


REFUSED, NO_WEIGHTS = "refused", ("safetensors",)
CASES = [
    Case("M01a", "a pickle in place of the weights", "run by torch.load before 2.6", REFUSED, NO_WEIGHTS, of(run_when_read, True)),
    Case("M01b", "a .pt in place of the weights", "run by torch.load before 2.6", REFUSED, NO_WEIGHTS, of(torch_pickle)),
    Case(
        "M01c",
        "a .pth in place of the weights",
        "run by torch.load before 2.6",
        REFUSED,
        NO_WEIGHTS,
        of(partial(torch_pickle, name="model.pth")),
    ),
    Case("M02a", "weights of another network", "", REFUSED, ("missing features.weight",), of(other_network, True)),
    Case("M02b", "weights of another size", "", REFUSED, (), of(other_size, True)),
    Case("M03a", "weights cut by 50 bytes", "", REFUSED, (), of(cut, True)),
    Case("M03b", "a header of 2^62 bytes", "", REFUSED, (), of(absurd, True)),
    Case("M03c", "empty weights", "", REFUSED, (), of(lambda f: (f / WEIGHTS).write_bytes(b""), True)),
    Case("M04a", "NaN in a tensor", "loaded", REFUSED, (), of(spoilt(float("nan")), True)),
    Case("M04b", "infinity in a tensor", "loaded", REFUSED, (), of(spoilt(float("inf")), True)),
    Case("M05", "another bit in the weights", "loaded", REFUSED, ("sha256",), of(flip)),
    Case("M06a", "a task that the network is not of", "", REFUSED, (), of(lambda f: change(f, task="denoise"))),
    Case("M06b", "other channels than the weights have", "", REFUSED, (), of(lambda f: change(f, options={"channels": [8, 4]}))),
    Case(
        "M06c",
        "a card with other classes than its network has",
        "other labels",
        REFUSED,
        ("tells 3 classes apart",),
        of(lambda f: change(f, classes=["background", "core"], options={"classes": 3})),
    ),
    Case("M07b", "an archive that unpacks to a thousand times its size", "unpacked", REFUSED, NO_WEIGHTS, of(bomb, True)),
    Case("M07a", "a bundle that writes outside", "written", REFUSED, NO_WEIGHTS, of(archive, True)),
    Case("M08a", "a card with a call", "run by a bundle's parser", REFUSED, (), of(code_in_the_card)),
    Case("M08c", "an expression in place of a network", "run by a bundle's parser", REFUSED, (), of(expression)),
    Case("M08b", "a network by a path", "", REFUSED, (), of(out_of_the_folder)),
]
