"""Which networks there are, and how one is built.

Every task has a package ``cohortex.models.<task>`` with a list ``ENTRIES``. Listing them imports no torch; only `build`
imports the module of the network that was asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cohortex.errors import Refused

if TYPE_CHECKING:
    from torch import nn

NOISE_UNITS = "units of the noise"
"""Values of a network whose input is divided by the standard deviation of its noise; 0 stays 0."""

TASKS = ("denoise", "superresolve", "segment", "regseg", "classify", "recognize")
"""The tasks that have networks; each is a package of this one."""


@dataclass(frozen=True)
class Expects:
    """What a network takes.

    Attributes
    ----------
    dimensions : {2, 3}
        Spatial axes of its input (a 2-D network is applied slice by slice).
    channels : int
        Channels of its input. A 2-D network with 2 k + 1 channels looks at k adjacent slices on each side; channel k is the slice itself.
    values : str
        Range of the values that it was made for, such as ``0..1``, or `NOISE_UNITS`.
    whole_slices : bool
        It needs slices whole (it projects them and back): they are never cut into blocks along their own two axes.
    grid : {"fine", "slices"}
        Of networks that add resolution: the input lies on the fine grid already, or is the slices, which the network itself puts on it.
    any_factor : bool
        Of those that put slices on the fine grid: ``forward(x, factor)`` takes any factor, else it is the option ``factor``.
    inputs : tuple of str
        What the input is made of, in the order of the channels: ``image``, and further ones such as a second view or ``reference``, which
        lie on the fine grid. A network on the slices' grid takes the fine voxels of every slice as channels (``layers.to_channels``).
    """

    dimensions: int
    channels: int = 1
    values: str = "0..1"
    whole_slices: bool = False
    grid: Literal["fine", "slices"] = "fine"
    any_factor: bool = False
    inputs: tuple[str, ...] = ("image",)


@dataclass(frozen=True)
class Entry:
    """One network of the registry.

    Attributes
    ----------
    task, name : str
        What it is for, and what it is called in configuration and cards.
    paper : str
        Author, title, journal, year, DOI.
    factory : str
        ``package.module:function``; the function takes the options by keyword and returns an ``nn.Module``.
    expects : Expects
    options : mapping
        Every option with its default; an option that is not here is refused.
    parameters : int, optional
        The parameter count that the paper (or its authors' code) states, with the default options.
    training : mapping
        How it is trained where nothing else is set: ``objective`` and its own settings, ``patch``, ``rate`` and so on. What a section says
        under ``training`` is laid over it.
    slower : mapping
        Beginnings of names of parameters, and the share of the learning rate with which these are trained.
    """

    task: str
    name: str
    paper: str
    factory: str
    expects: Expects
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    slower: Mapping[str, float] = field(default_factory=dict)


def of_classes(
    task: str,
    name: str,
    paper: str,
    dimensions: int,
    channels: int,
    classes: int,
    options: Mapping[str, Any],
    parameters: int | None = None,
    *,
    loss: str,
    factory: str | None = None,
    fixed: bool = False,
) -> Entry:
    """Return the entry of a network whose options ``channels``, ``classes`` and ``dimensions`` a training sets.

    Parameters
    ----------
    factory : str, optional
        ``module:function`` in the task's package; the module and function of the network's name if it is not given.
    fixed : bool
        It is fixed in its dimensions, and has no option for them.
    """
    return Entry(
        task=task,
        name=name,
        paper=paper,
        factory=f"cohortex.models.{task}.{factory or f'{name}:{name}'}",
        expects=Expects(dimensions=dimensions, channels=channels),
        options={**({} if fixed else {"dimensions": dimensions}), "channels": channels, "classes": classes, **options},
        parameters=parameters,
        training={"objective": loss},
    )


def expected(found: Entry, options: Mapping[str, Any]) -> Expects:
    """Return what a network takes with these options laid over its own.

    An option ``dimensions`` (2 or 3) is that of the input; an option ``adjacent`` is how many slices a 2-D network looks at on each side;
    an option ``inputs`` names what the input is made of. On the slices' grid each further input is ``factor`` channels. Of networks that
    segment, recognize or classify the option ``channels`` is that of the input.
    """
    chosen = {**found.options, **options}
    changed: dict[str, Any] = {"dimensions": chosen["dimensions"]} if "dimensions" in chosen else {}
    if found.task in ("segment", "recognize", "classify"):
        changed["channels"] = chosen["channels"]
    if "adjacent" in chosen:
        changed["channels"] = 2 * chosen["adjacent"] + 1
    if "inputs" in chosen:
        further = len(chosen["inputs"]) - 1
        channels = 1 + further * (chosen["factor"] if found.expects.grid == "slices" else 1)
        changed |= {"inputs": tuple(chosen["inputs"]), "channels": channels}
    return replace(found.expects, **changed)


def entries(task: str | None = None) -> list[Entry]:
    """Return the networks of a task, or of all tasks; imports no torch.

    Raises
    ------
    Refused
        When there is no such task.
    """
    if task is not None and task not in TASKS:
        raise Refused(f"There is no task {task!r}; the tasks with networks are {', '.join(TASKS)}.")
    found: list[Entry] = []
    for name in TASKS if task is None else (task,):
        package = f"cohortex.models.{name}"
        if importlib.util.find_spec(package) is not None:
            found.extend(importlib.import_module(package).ENTRIES)
    return found


def entry(task: str, name: str) -> Entry:
    """Return one network's entry.

    Raises
    ------
    Refused
        When the task has no network of that name; the sentence names the nearest one.
    """
    known = {e.name: e for e in entries(task)}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(known) or 'none'}."
        raise Refused(f"The task {task} has no network {name!r}.{hint}")
    return known[name]


def build(task: str, name: str, **options: Any) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    task, name : str
        As in `entries`.
    **options
        Overlay the entry's own options.

    Raises
    ------
    Refused
        For an unknown task, network or option.
    """
    found = entry(task, name)
    unknown = sorted(set(options) - set(found.options))
    if unknown:
        raise Refused(f"The network {name} has no option {unknown[0]!r}; it has: {', '.join(found.options) or 'none'}.")
    module, _, function = found.factory.partition(":")
    return getattr(importlib.import_module(module), function)(**{**found.options, **options})


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable values of a network; built under ``torch.device("meta")`` it takes no memory to count them."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
