"""Take the faces out of the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.deface import deface, load

run_stage(snakemake, deface, load)
