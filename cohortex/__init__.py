"""Cohortex: reprocess a whole cohort of medical images in one Snakemake run."""

__version__ = "0.1.0"
