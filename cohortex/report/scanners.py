"""Values beside those of their own scanner, and scanners whose values lie elsewhere as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.report.charts import short
from cohortex.report.groups import LETTERS
from cohortex.report.measures import Group, Odd, odd_ones, part_of, spoken
from cohortex.report.records import Records

ENOUGH = 10
"""A scanner with fewer images of a measure is not looked at by itself."""
FAR = 2.0
"""A scanner is odd as a whole when its median is so many spreads from the others': one of fourteen values is beyond 3.5 of theirs."""
APART = 1.5
"""How much more the distance of scanners from each other counts than the spread of the values of one."""
FEW = 5
"""Of fewer other scanners the whole range of their medians, not the median deviation, says how far scanners lie apart."""
NAMED = 3
"""So many measures of a scanner are told with their figures."""


@dataclass(frozen=True)
class Shift:
    """A measure whose values on one scanner lie elsewhere: its median, the one of the other scanners' medians, how many spreads between."""

    group: Group
    machine: str
    median: float
    others: float
    z: float
    images: int
    machines: int


def machine_of(records: Records, image: str) -> str:
    """Return the scanner of an image with its site before it; empty where neither is named.

    Notes
    -----
    Without a column ``scanner`` a site stands for its scanner.
    """
    return " · ".join(filter(None, (records.cell(image, name)[:LETTERS] for name in ("site", "scanner"))))


def machines_of(records: Records) -> dict[str, str]:
    """Return the scanner of every image by its id (`machine_of`), of those that have one."""
    found = {name: machine_of(records, name) for name in records.cohort}
    return {name: machine for name, machine in found.items() if machine}


def by_machine(group: Group, machines: Mapping[str, str]) -> dict[str, Group]:
    """Return the part of a group that is of each scanner with at least `ENOUGH` images of it, in the order of their names."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(group.images):
        machine = machines.get(image.split("+")[0])
        if machine:
            places[machine].append(place)
    return {machine: part_of(group, places[machine]) for machine in sorted(places) if len(places[machine]) >= ENOUGH}


def shifts_of(group: Group, machines: Mapping[str, str]) -> list[Shift]:
    """Return the scanners whose median of a measure is more than `FAR` spreads from the median of the other scanners' medians.

    Notes
    -----
    The spread is the root of two squares: the scaled median absolute deviation of all values from their own scanner's median, and `APART`
    times how far the other scanners' medians lie from each other (the same of them; of fewer than `FEW` their range). So scanners that all
    differ are not odd, one that differs from scanners that agree is. Of two scanners the one with fewer images is told of.
    """
    return _shifts(group, by_machine(group, machines))


def _shifts(group: Group, parts: Mapping[str, Group]) -> list[Shift]:
    if len(parts) < 2:
        return []
    medians = {machine: float(np.median(part.values)) for machine, part in parts.items()}
    away = np.concatenate([np.abs(np.asarray(part.values) - medians[machine]) for machine, part in parts.items()])
    within = 1.4826 * float(np.median(away))
    floor = 1e-4 * abs(float(np.median(list(medians.values())))) + 1e-12
    found = []
    for machine, part in parts.items():
        rest = np.array([median for other, median in medians.items() if other != machine])
        centre = float(np.median(rest))
        between = float(np.ptp(rest)) if len(rest) < FEW else 1.4826 * float(np.median(np.abs(rest - centre)))
        z = (medians[machine] - centre) / max(float(np.hypot(within, APART * between)), floor)
        if abs(z) > FAR and abs(medians[machine] - centre) > floor:
            found.append(Shift(group, machine, medians[machine], centre, z, len(part.values), len(parts)))
    if len(parts) == 2 and len(found) == 2:
        found = [min(found, key=lambda shift: (shift.images, shift.machine))]
    return found


def odd_beside(groups: Iterable[Group], threshold: float, machines: Mapping[str, str]) -> tuple[list[Odd], list[Shift]]:
    """Return odd values, farthest first, and the scanners that are odd as a whole.

    Parameters
    ----------
    groups : iterable of Group
    threshold : float
        Robust z score (`cohortex.report.measures.limit_of`).
    machines : mapping
        Scanner of an image by its id (`machines_of`).

    Returns
    -------
    odd : list of Odd
        Values far from all of their group, or from those of their own scanner (`Odd.beside`) where it has `ENOUGH` images. Values of a
        scanner that is odd as a whole are held against its own only.
    shifts : list of Shift
    """
    odd, shifts = [], []
    for group in groups:
        parts = by_machine(group, machines)
        moved = _shifts(group, parts)
        found = {one.image: one for one in odd_ones([group], threshold)}
        for shift in moved:
            for image in parts[shift.machine].images:
                found.pop(image, None)
        if len(parts) > 1:
            for machine, part in parts.items():
                for one in odd_ones([part], threshold):
                    if one.image not in found or abs(one.z) > abs(found[one.image].z):
                        found[one.image] = Odd(group, one.image, one.value, one.z, one.median, one.low, one.high, machine)
        odd += found.values()
        shifts += moved
    return sorted(odd, key=lambda one: (-abs(one.z), one.image)), sorted(shifts, key=lambda shift: (-abs(shift.z), shift.machine))


def sentences(shifts: Sequence[Shift]) -> list[tuple[str, str]]:
    """Return one sentence a scanner that is odd as a whole, as name and what is to be said of it; the farthest first."""
    by_scanner: dict[str, list[Shift]] = defaultdict(list)
    for shift in shifts:
        by_scanner[shift.machine].append(shift)
    found = []
    for machine, several in by_scanner.items():
        told = "; ".join(map(_words, several[:NAMED]))
        rest = len(several) - NAMED
        more = f"; and {rest} more measure{'s' if rest > 1 else ''}" if rest > 0 else ""
        images = max(shift.images for shift in several)
        found.append((machine, f"its {images} images lie elsewhere as a whole: {told}{more}."))
    return found


def _words(shift: Shift) -> str:
    name, unit = spoken(shift.group.measure)
    tag = f"{shift.group.tag}: " if shift.group.tag else ""
    others = "the other scanner" if shift.machines == 2 else f"the {shift.machines - 1} other scanners"
    unit = f" {unit}" if unit else ""
    of = shift.group.modality or "the images"
    medians = f"median {short(shift.median)}{unit} beside {short(shift.others)}{unit} of {others}"
    return f"{tag}{name} of {of} in {shift.group.stage}, {medians}"
