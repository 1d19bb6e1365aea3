"""Train the model of one stage."""

from cohortex.training.run import run_training

run_training(snakemake)
