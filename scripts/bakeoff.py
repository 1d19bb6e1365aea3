"""Train a system of a bake-off, score it, search its settings, or write the leaderboard: what the rule is for."""

from cohortex.bakeoff.run import run_bakeoff

run_bakeoff(snakemake)
