"""Simulate the scans of one batch of the demo cohort."""

from pathlib import Path

from cohortex.clocks import heed_clocks
from cohortex.demo.make import make_batch

heed_clocks(snakemake.input, Path(snakemake.output[0]).parents[1])
make_batch(snakemake.input[0], snakemake.output[0], snakemake.params.seed, snakemake.threads, snakemake.log[0])
