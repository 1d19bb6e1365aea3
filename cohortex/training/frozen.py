"""Which batches a model is trained on (read at every parse of the Snakefile, so it imports nothing heavy)."""

from __future__ import annotations

from pathlib import Path

from cohortex.publish import atomic_path


def frozen_batches(work: str, task: str, batches: list[str], retrain: bool) -> list[str]:
    """Return the batches that a task's model is trained on: those of its first training, so that new subjects never retrain.

    The list is written by the first call (or a call with `retrain`); job processes find it there.
    """
    file = Path(work) / "training" / f"{task}.tsv"
    if retrain or not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_text("\n".join(["batch", *batches]) + "\n", encoding="utf-8")
        return batches
    return file.read_text(encoding="utf-8").split()[1:]
