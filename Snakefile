"""Cohortex: a cohort of medical images in, derivatives and one report out."""

import os
import sys
from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, workflow.basedir)  # its package, installed or not, also for jobs
from cohortex.run import use_package_of

use_package_of(workflow.basedir)


configfile: os.path.join(workflow.basedir, "config.yaml")


include: "rules/common.smk"
include: "rules/demo.smk"
include: "rules/acquire.smk"
include: "rules/deface.smk"
include: "rules/preprocess.smk"
include: "rules/denoise.smk"
include: "rules/superresolve.smk"
include: "rules/regseg.smk"
include: "rules/recognize.smk"
include: "rules/classify.smk"
include: "rules/export.smk"
include: "rules/train.smk"
include: "rules/report.smk"
include: "rules/bakeoff.smk"


rule all:
    """Everything: the derivatives, the report, and the word on whether the cohort went through."""
    default_target: True
    input:
        report="<results>/report/index.html",
        verdict="<work>/verdict.txt",


onstart:
    start_run()


onsuccess:
    end_run(success=True)


onerror:
    end_run(success=False)
