"""One process of a training: ``python -m cohortex.training.member ORDER PLACE [RANK]``; without RANK Slurm's variables say it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cohortex.threads import die_with_parent
from cohortex.training.run import train_as_member
from cohortex.training.team import end


def main(words: list[str]) -> int:
    """Train; return the exit status."""
    die_with_parent()
    rank = int(words[2]) if len(words) > 2 else int(os.environ["SLURM_PROCID"])
    return train_as_member(Path(words[0]), Path(words[1]), rank)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
