"""Super-resolve the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.superresolve import load, superresolve

run_stage(snakemake, superresolve, load)
