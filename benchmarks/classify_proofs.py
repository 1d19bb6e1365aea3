"""What the rows C02 to C26 and F07, F08 state about networks that classify, each tried with small budgets on generated cases.

    python -m benchmarks.classify_proofs [--proof C02,C05] [--steps 1] [--folder FOLDER] [--save FILE]

Pictures of 28 to 40 pixels and volumes of 32 (`benchmarks.classify_proofs_data`), networks of the registry with their small options,
trained as the stage classify trains them, with its own options: ``start``, ``frozen``, ``members``, ``augment``, ``average``,
``optimiser``, ``balance``. Sizes and steps were chosen with other seeds (6 and 7) than that of the record. Where something is better than
something else, both are trained several times, each time from other cases and tested on others, 300 to 500; the interval is that of the
mean of the paired differences, and the statement holds where its lower end is above 0. Rows C17 and C22 train once, and have DeLong's
intervals of 1,000 cases. Models that others begin with are kept in the folder. ``--steps`` multiplies all steps, and below 1
the repetitions. With ``--save`` the rows that the record has already are kept beside the new ones. Last line: FIGURE, over all rows of
the record.

Cases are mirrored and get another gain and offset, but are not turned, moved or scaled: that interpolates, so that networks learn from
smoother pictures than those that they are asked about, which costs much where classes differ in details of a pixel or two (row C09 has
what each kind adds or takes).

What fails: three members of one network are better than one, but the mean of three different networks is not better than the best of
them where the other two are much weaker (C06); that the fusion of C17 is better than the network alone cannot be told by 1,000 nodules;
and that textures first are better for Swin too, as they are for ViT, cannot be told by four trainings of so few steps (C26).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import partial

from benchmarks import classify_proofs_learning, classify_proofs_networks, classify_proofs_sequences, classify_proofs_transfer
from benchmarks.classify_proofs_data import Settings
from benchmarks.proofs import Found, Statements, parser_of, rows_of, try_all
from benchmarks.record import Run
from cohortex.threads import set_threads

SEED = 41
MODULES = (classify_proofs_networks, classify_proofs_transfer, classify_proofs_learning, classify_proofs_sequences)
ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = dict(sorted(each for module in MODULES for each in module.ROWS.items()))
"""What each row states, and who tries it."""


def main() -> None:
    """Try what was asked for, and print what holds."""
    parser = parser_of(__doc__, "classify_proofs")
    parser.add_argument("--seed", type=int, default=SEED, help="of cases and trainings")
    options = parser.parse_args()
    set_threads(1)
    have = Settings(options.folder, options.steps, options.seed)
    statements: Statements = {row: (words, partial(prove, have)) for row, (words, prove) in ROWS.items()}
    rows = rows_of(options.proof, statements)
    try_all(Run("classify_proofs", ["numpy", "scipy", "scikit-learn", "torch"]), statements, rows, options.save)


if __name__ == "__main__":
    main()
