"""Simulate the scans of one batch of the demo cohort."""

from cohortex.demo.make import make_batch

make_batch(snakemake.input[0], snakemake.output[0], snakemake.params.seed, snakemake.threads, snakemake.log[0])
