"""Denoise the images of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.denoise import denoise, load

run_stage(snakemake, denoise, load)
