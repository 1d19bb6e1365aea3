"""What other settings than those of the records mean for the next run: from which stage on the batches are run again.

Imported by the head process of every run, so it imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.config import canonical
from cohortex.run import model_params
from cohortex.stages import STAGES

LOOKED_AT = 3
"""So many batches are looked at (the first, the last, those between): all had the same settings, but for a run that was cut short."""


def what_reruns(config: Mapping[str, Any], weights: Mapping[str, Mapping[str, str]], batches: Sequence[str]) -> Iterator[str]:
    """Yield a sentence where a stage's settings, version or models are not those of the records.

    Parameters
    ----------
    config : mapping
        As checked.
    weights : mapping
        By stage, the model folders by their names in the configuration.
    batches : sequence of str
        Those that this run works on.

    Notes
    -----
    A changed stage needs the volumes of the one before it. Where ``keep`` does not name that one they were deleted after their use, and
    the chain runs again from the first stage whose input is there.
    """
    work, chain = Path(config["work"]), list(config["stages"])
    for batch in _spread(batches):
        told = {stage: _numbers(work / "records" / stage / batch / "numbers.json") for stage in chain}
        if not told[chain[-1]]:
            continue  # it has not been through the chain, so there is nothing to run again
        for position, stage in enumerate(chain):
            what = _differs(config, stage, told[stage], weights.get(stage, {}))
            if what:
                yield _sentence(chain, position, what, _first(work, chain, position, batch))
                return


def _spread(batches: Sequence[str]) -> list[str]:
    count = len(batches)
    places = sorted({round(part * (count - 1) / max(LOOKED_AT - 1, 1)) for part in range(LOOKED_AT)}) if count else []
    return [batches[place] for place in places]


def _numbers(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _differs(config: Mapping[str, Any], stage: str, told: Mapping[str, Any], weights: Mapping[str, str]) -> str:
    """Return what is not as a record of a stage says, in words; nothing where all is the same."""
    if not told:
        return f"{stage} has no record"
    if told.get("version") != STAGES[stage].version:
        return f"{stage} has version {STAGES[stage].version} and had {told.get('version')}"
    if canonical(told.get("section")) != canonical(config.get(stage, {"default": {}})):
        return f"{stage} has other settings"
    models = {name: model["sha256"] for name, model in json.loads(model_params(weights)).items() if model["sha256"]}
    before = {name: model.get("sha256") for name, model in (told.get("models") or {}).items()}
    if any(before.get(name) != sha256 for name, sha256 in models.items()):
        return f"{stage} has another model"
    return ""


def _first(work: Path, chain: Sequence[str], position: int, batch: str) -> int:
    """Return the position of the first stage that must run so that the one at `position` can."""
    while position > 0 and not (work / chain[position - 1] / batch).is_dir():
        position -= 1
    return position


def _sentence(chain: Sequence[str], position: int, what: str, first: int) -> str:
    start = f"{what} since the last run, so its batches run again from {chain[first]} on"
    if first == position:
        return f"{start}." if position == 0 else f"{start}; the volumes of {chain[position - 1]}, which it reads, were kept."
    before = chain[position - 1]
    return (
        f"{start}, because the volumes of {before}, which it reads, were not kept. "
        f"With keep: [{before}] another change of {chain[position]} would run again from {chain[position]} on only."
    )
