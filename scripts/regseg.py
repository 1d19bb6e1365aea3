"""Register and segment the subjects of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.regseg import load, regseg

run_stage(snakemake, regseg, load)
