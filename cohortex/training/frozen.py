"""Which batches a model is trained on (read at every parse of the Snakefile, so it imports nothing heavy)."""

from __future__ import annotations

from pathlib import Path

from cohortex.publish import write_text


def frozen_batches(work: str, task: str, batches: list[str], retrain: bool) -> list[str]:
    """Return the batches that a task's model is trained on: those of its first training, so that new subjects never retrain.

    The list is written by the first call (or a call with `retrain`, or when none of its batches is left); job processes find it there.
    """
    file = Path(work) / "training" / f"{task}.tsv"
    if file.is_file() and not retrain:
        # A batch whose subjects were all taken out of the cohort is gone: no rule can make it again.
        held = [batch for batch in file.read_text(encoding="utf-8").split()[1:] if batch in set(batches)]
        if held:
            return held
    write_text(file, "\n".join(["batch", *batches]) + "\n")
    return batches
