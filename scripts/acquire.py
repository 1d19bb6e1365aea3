"""Read the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.acquire import acquire

run_stage(snakemake, acquire)
