"""Super-resolve the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.superresolve import superresolve, load

run_stage(snakemake, superresolve, load)
