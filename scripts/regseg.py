"""Register and segment the subjects of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.regseg import regseg, load

run_stage(snakemake, regseg, load)
