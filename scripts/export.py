"""Export the subjects of one batch."""

from cohortex.stage import run_stage
from cohortex.stages.export import export

run_stage(snakemake, export)
