"""Model folders: ``card.yaml`` says what a model is and what it is for, ``model.safetensors`` holds its weights.

Everything but `load_network` does without torch. Whatever is wrong with a folder is `Refused` with a sentence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.config import WEIGHTS as TRAINED
from cohortex.device import choose_device
from cohortex.errors import Refused
from cohortex.items import settings_for
from cohortex.models import registry
from cohortex.publish import atomic_path, file_sha256
from cohortex.volume import Volume

if TYPE_CHECKING:
    from torch import nn

CARD = "card.yaml"
WEIGHTS = "model.safetensors"
SHOWN = "training.json"
"""What the report shows of a training (`cohortex.training.shown`); not every folder has it."""
MOST_SHOWN = 1_000_000
"""Bytes; every batch's record has it."""
SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "model_card.schema.json"
TOLERANCE = 0.01
"""Relative slack of the range of spacings, for spacings that were rounded."""


@dataclass(frozen=True)
class Loaded:
    """A network with its card, on the device where it runs."""

    card: Mapping[str, Any]
    network: nn.Module
    device: str


def write_model(folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Any], beside: Mapping[str, bytes] | None = None) -> None:
    """Write a model folder in one step: it is complete or not there.

    Parameters
    ----------
    folder : path
        Replaced when it exists.
    card : mapping
        What stands in ``card.yaml`` without ``sha256``, which is added (see ``schemas/model_card.schema.json``).
    tensors : mapping of str to array or torch tensor
        Written in the order of their names, so equal tensors give equal bytes.
    beside : mapping of str to bytes, optional
        Further files by name.

    Raises
    ------
    Refused
        When the card does not hold to its schema or a tensor is not finite.
    """
    import yaml
    from safetensors.numpy import save

    arrays = {name: _as_array(tensors[name]) for name in sorted(tensors)}
    folder = Path(folder)
    _check_finite(arrays, _called(folder, WEIGHTS))
    raw = save(arrays)
    # Through JSON, so that numpy's numbers and tuples become plain ones.
    whole = json.loads(json.dumps({**card, "sha256": hashlib.sha256(raw).hexdigest()}, default=_plain))
    _check_card(whole, _called(folder, CARD))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, content in {**(beside or {}), WEIGHTS: raw}.items():
            (temporary / name).write_bytes(content)
        (temporary / CARD).write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return a model folder's card.

    Raises
    ------
    Refused
        When there is no card, or it is not YAML, or does not hold to its schema.
    """
    import yaml

    path = Path(folder) / CARD
    name = _called(path.parent, CARD)
    if not path.is_file():
        raise Refused(f"{name} is not there: a model folder has {CARD} and {WEIGHTS}; name such a folder under weights, or train one.")
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{name} is not readable YAML ({' '.join(str(error).split())}); write it anew or train the model again.") from error
    _check_card(card, name)
    return card


def read_shown(folder: str | Path) -> dict[str, Any]:
    """Return what a training left for the report; nothing where there is no such file, or it is no JSON or absurdly large."""
    path = Path(folder) / SHOWN
    try:
        if path.stat().st_size > MOST_SHOWN:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_model(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a model folder's card and tensors.

    Raises
    ------
    Refused
        When the card is wrong, the weights are missing, truncated or not those of the card, or a tensor is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    card = read_card(folder)
    path = Path(folder) / WEIGHTS
    name = _called(path.parent, WEIGHTS)
    if not path.is_file():
        raise Refused(f"{name} is not there, though {CARD} is: copy the whole folder again or train the model again.")
    raw = path.read_bytes()
    _check_header(raw, name)
    found = hashlib.sha256(raw).hexdigest()
    if found != card["sha256"]:
        raise Refused(
            f"{name} has the sha256 {found[:12]}..., but {CARD} says {card['sha256'][:12]}...: the file was changed or "
            "cut; copy the folder again or train the model again."
        )
    try:
        tensors = load(raw)
    except (SafetensorError, KeyError) as error:
        raise Refused(f"{name} cannot be read as safetensors ({error}); copy the folder again or train the model again.") from error
    _check_finite(tensors, name)
    return card, tensors


def model_sha256(folder: str | Path) -> str:
    """Return the sha256 of a folder's weights, hexadecimal, from the bytes of the file.

    Raises
    ------
    Refused
        When the folder has no weights.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise Refused(f"{_called(path.parent, WEIGHTS)} is not there: name a model folder under weights, or train one.")
    return file_sha256(path)


def load_network(folder: str | Path, device: str = "cpu", part: str = "") -> nn.Module:
    """Build the network of a folder's card and give it the folder's weights.

    Parameters
    ----------
    folder : path
    device : str
        ``cpu`` or ``cuda``.
    part : str
        A key of the card's ``parts``: that network, from the tensors whose names begin with ``<part>.``. Empty: the
        network of the card itself, from all tensors that belong to no part.

    Returns
    -------
    nn.Module
        In evaluation mode, without gradients, on `device`.

    Raises
    ------
    Refused
        As `read_model`; and when the weights are not those of the network, naming the first five that differ.
    """
    import torch

    card, tensors = read_model(folder)
    parts = card.get("parts", {})
    if part and part not in parts:
        raise Refused(f"{_called(Path(folder), CARD)} has no part {part!r}; its parts: {', '.join(parts) or 'none'}.")
    if part:
        chosen = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
    else:
        chosen = {name: t for name, t in tensors.items() if name.split(".")[0] not in parts}
    wanted = parts[part] if part else card
    # A part that is named after a task is a network of that task, such as segment.CT of a joint model.
    task = part.partition(".")[0]
    network = registry.build(task if task in registry.TASKS else card["task"], wanted["network"], **wanted.get("options", {}))
    state = network.state_dict()
    misfits = [f"missing {name}" for name in state if name not in chosen]
    misfits += [f"unexpected {name}" for name in chosen if name not in state]
    misfits += [
        f"{name} of shape {tuple(chosen[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state
        if name in chosen and tuple(chosen[name].shape) != tuple(state[name].shape)
    ]
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        raise Refused(
            f"{_called(Path(folder), WEIGHTS)} does not hold the weights of {wanted['network']}: {', '.join(misfits[:5])}{more}; "
            f"correct network or options in {CARD}, or train the model again."
        )
    network.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in chosen.items()}, strict=True)
    return network.to(device).eval().requires_grad_(False)


def check_used(section: Mapping[str, Any], folders: Mapping[str, Path], task: str, networks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the cards of the models that a section's settings use, without torch.

    Parameters
    ----------
    section : mapping
        ``default`` and entries by modality. Where there is a setting ``method``, ``weights`` counts if that names one of `networks`.
    folders : mapping
        Where the folder of each value of ``weights`` is; one that is not there yet (``train``) is not looked at.
    task : str
        What the models must be for: the stage.
    networks : sequence of str
        What the stage can run.

    Raises
    ------
    Refused
        When a network has no weights, or a model is for another task or has another network.
    """
    cards: dict[str, dict[str, Any]] = {}
    for modality in section:
        settings = settings_for(section, modality)
        method, name = settings.get("method"), settings.get("weights")
        if method in networks and not name:
            raise Refused(f"{task}.{modality}: the method {method} needs weights: name a model folder, or train.")
        if not isinstance(name, str) or name not in folders or name in cards or not ("method" not in settings or method in networks):
            continue
        card = read_card(folders[name])
        if card["task"] != task:
            raise Refused(
                f"{_called(Path(folders[name]), CARD)} is a model for {card['task']}, but {task} has it under weights; name another."
            )
        if "method" in settings and card["network"] not in networks:
            raise Refused(f"The model {name} has the network {card['network']}; the stage {task} runs {', '.join(networks)}.")
        cards[name] = card
    return cards


def check_segmenting(section: Mapping[str, Any], folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the cards of the models that a section's settings name under ``segment_weights``, without torch.

    Parameters
    ----------
    section : mapping
        ``default`` and entries by modality.
    folders : mapping
        Where the folder of each name is; one that is not there yet (``train``) is not looked at.

    Raises
    ------
    Refused
        When a model is for another task than to segment.
    """
    cards: dict[str, dict[str, Any]] = {}
    for modality in section:
        name = settings_for(section, modality).get("segment_weights")
        if isinstance(name, str) and name in folders and name not in cards:
            cards[name] = read_card(folders[name])
            if cards[name]["task"] != "segment":
                raise Refused(
                    f"{_called(Path(folders[name]), CARD)} is a model for {cards[name]['task']}, but it stands under segment_weights; "
                    "name one whose task is segment."
                )
    return cards


def check_registering(section: Mapping[str, Any], folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the cards of the models that a section's settings name under ``register_weights``, without torch.

    Parameters
    ----------
    section : mapping
        ``default`` and entries by modality.
    folders : mapping
        Where the folder of each name is, ``train`` being called ``train register``; one that is not there yet is not looked at.

    Raises
    ------
    Refused
        When a model has no network that registers.
    """
    cards: dict[str, dict[str, Any]] = {}
    for modality in section:
        said = settings_for(section, modality).get("register_weights")
        name = TRAINED["register_weights"] if said == "train" else said
        if isinstance(name, str) and name in folders and name not in cards:
            card = read_card(folders[name])
            if card["task"] != "regseg" or "register" not in card.get("parts", {}):
                raise Refused(
                    f"{_called(Path(folders[name]), CARD)} is a model for {card['task']} without a part `register`, but it stands under "
                    "register_weights; name a network that registers."
                )
            cards[name] = card
    return cards


def load_used(
    section: Mapping[str, Any], folders: Mapping[str, Path], device: str, task: str, networks: Sequence[str]
) -> dict[str, Loaded]:
    """Load the models of a stage whose setting ``method`` may name a network, each once.

    Parameters are those of `check_used`, and ``device``: auto, cpu or cuda.

    Raises
    ------
    Refused
        As `check_used` and `load_network`.
    """
    from cohortex.inference import channels_last

    cards = check_used(section, folders, task, networks)
    chosen = choose_device(device) if cards else device
    return {name: Loaded(card, channels_last(load_network(folders[name], chosen)), chosen) for name, card in sorted(cards.items())}


def fits(card: Mapping[str, Any], volume: Volume) -> str | None:
    """Return why a model is not for a volume, as the end of a sentence, or None when it is.

    Compared are modality, body part, dimensions, and the distance of the voxels along every axis that has more than one.
    """
    if "any" not in card["modality"] and volume.modality not in card["modality"]:
        return f"the model {card['name']} is for {_listed(card['modality'])}, not for {volume.modality or 'an unknown modality'}"
    if "any" not in card["body_part"] and volume.body_part not in card["body_part"]:
        found = f"not for the {volume.body_part}" if volume.body_part else "and the body part of this image is not known (column body_part)"
        return f"the model {card['name']} is for the {_listed(card['body_part'])}, {found}"
    dimensions = 2 if volume.shape[2] == 1 else 3
    if dimensions not in card["dimensions"]:
        return f"the model {card['name']} is for {_listed(card['dimensions'])}-D images, not for {dimensions}-D ones"
    low, high = card["spacing_mm"]["min"], card["spacing_mm"]["max"]
    for axis, length, spacing in zip("xyz", volume.shape, volume.spacing, strict=True):
        if length > 1 and not low * (1 - TOLERANCE) <= spacing <= high * (1 + TOLERANCE):
            return f"the model {card['name']} is for voxels of {low:g} to {high:g} mm, but along {axis} they are {spacing:.4g} mm"
    return None


def _called(folder: Path, file: str) -> str:
    """Name a file of a model folder without the machine's path."""
    return "/".join([*Path(folder).parts[-2:], file]) if not folder.is_absolute() else f"{folder.parent.name}/{folder.name}/{file}"


def _listed(values: list[Any]) -> str:
    return ", ".join(str(v) for v in values)


def _as_array(tensor: Any) -> np.ndarray:
    # Not ascontiguousarray: it would make a vector of a single number.
    return np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor, order="C")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a card holds plain values, not {type(value).__name__}")


def _check_card(card: Any, name: str) -> None:
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    errors = jsonschema.Draft202012Validator(schema).iter_errors(card)
    worst = min(errors, key=lambda e: [str(p) for p in e.absolute_path], default=None)
    if worst is not None:
        where = ".".join(str(p) for p in worst.absolute_path)
        what = worst.message if len(worst.message) < 200 else f"{worst.message[:80]} ... {worst.message[-100:]}"
        raise Refused(f"{name}: {f'{where}: ' if where else ''}{what}; correct the card or train the model again.")
    if card["spacing_mm"]["min"] > card["spacing_mm"]["max"]:
        raise Refused(f"{name}: spacing_mm has min above max; correct the card.")
    if "values" in card and card["values"]["high"] <= (0 if card["values"]["kind"] == "noise" else card["values"]["low"]):
        least = "high not above 0" if card["values"]["kind"] == "noise" else "low not below high"
        raise Refused(f"{name}: values has {least}; correct the card.")
    named = len(card.get("classes") or ())
    subclasses = ((card.get("extra") or {}).get("committee") or {}).get("subclasses", 1)
    for where, part in {"": card, **card.get("parts", {})}.items():
        made = (part.get("options") or {}).get("classes")
        if isinstance(made, int) and made % subclasses == 0:
            # classes were parted before the training, and their parts are put together again
            made //= subclasses
        if named and isinstance(made, int) and made != named:
            which = f"parts.{where}" if where else "its network"
            raise Refused(f"{name}: {which} tells {made} classes apart, but classes names {named}; correct the card.")


def _check_header(raw: bytes, name: str) -> None:
    """Refuse what cannot be safetensors before the library allocates what its header promises."""
    length = int.from_bytes(raw[:8], "little") if len(raw) >= 8 else -1
    if not 2 <= length <= len(raw) - 8 or raw[8:9] != b"{":
        raise Refused(f"{name} is not a whole safetensors file ({len(raw)} bytes); copy the folder again or train the model again.")


def _check_finite(tensors: Mapping[str, np.ndarray], name: str) -> None:
    for key, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise Refused(f"{name}: the tensor {key} has values that are not finite; train the model again.")
