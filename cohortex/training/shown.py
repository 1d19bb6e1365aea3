"""What a report shows of a training: its curves and a few examples, kept as ``training.json`` in the model folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

EXAMPLES, EDGE = 3, 96
"""Examples that are shown, and pixels of them along an axis at most."""


def shown(recipe: Mapping[str, Any], examples: Sequence[Mapping[str, np.ndarray]], measured: str) -> dict[str, Any]:
    """Return what is kept.

    Parameters
    ----------
    recipe : mapping
        ``recipe`` of the card: ``steps_done``, ``loss``, ``validation`` and ``of_objective`` are taken.
    examples : sequence of mappings
        Of each the pictures to be set beside each other, by what they show; all of an example have one window.
    measured : str
        What the curve of validation says, in words.
    """
    curves = {name: recipe[name] for name in ("steps_done", "loss", "validation", "of_objective") if name in recipe}
    return {**curves, "measured": measured, "examples": [_drawn(example) for example in examples]}


def examples_of(
    network: nn.Module, source: Any, target: np.ndarray | None, device: str, words: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Return input, output and target of a few examples as pictures; of volumes the middle slice.

    Parameters
    ----------
    network : nn.Module
    source : (n, c, ...) array, or a tuple of such arrays
        Of a tuple the first is shown; of channels the middle one.
    target : (n, 1, ...) array, optional
    device : str
    words : sequence of str
        What input, output and target are called.
    """
    import torch

    parts = source if isinstance(source, tuple) else (source,)
    network.eval()
    with torch.no_grad():
        made = network(*(torch.from_numpy(part[:EXAMPLES]).to(device) for part in parts)).float().cpu().numpy()
    found = []
    for number in range(len(made)):
        pictures = [parts[0][number], made[number], *([] if target is None else [target[number]])]
        found.append(dict(zip(words, (_picture(each, made.shape[2:]) for each in pictures), strict=False)))
    return found


def _picture(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the middle channel and slice of (c, ...), of the size of the output and at most so large."""
    flat = array[array.shape[0] // 2]
    flat = flat[:, :, flat.shape[2] // 2] if flat.ndim == 3 else flat
    edges = [min(n, EDGE) for n in size[:2]]
    return flat[tuple(slice((n - e) // 2, (n - e) // 2 + e) for n, e in zip(flat.shape, edges, strict=True))]


def _drawn(example: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return pictures as PNG in base64; x goes to the right and y up, as everywhere in the report."""
    from PIL import Image

    last = list(example.values())[-1]
    low, high = np.percentile(last, (0.5, 99.5))
    found = {}
    for word, picture in example.items():
        grey = np.clip((picture - low) / max(float(high - low), 1e-9), 0, 1)
        buffer = io.BytesIO()
        Image.fromarray(np.round(255 * grey.T[::-1]).astype(np.uint8)).save(buffer, "PNG", optimize=True)
        found[word] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return found
