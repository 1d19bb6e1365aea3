"""Classify the subjects of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.classify import classify, load

run_stage(snakemake, classify, load)
