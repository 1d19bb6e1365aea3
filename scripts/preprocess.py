"""Preprocess the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.preprocess import preprocess

run_stage(snakemake, preprocess)
