"""Find things in the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.recognize import load, recognize

run_stage(snakemake, recognize, load)
