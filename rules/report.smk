report: "captions/workflow.rst"


rule report:
    """Write the report on the whole cohort from the records of every stage."""
    input:
        records,
        exported,
        # written anew only when its content changes
        ratings="<work>/cohort/ratings.tsv",
    output:
        page=report(
            "<results>/report/index.html",
            caption="captions/report.rst",
            category="Cohort",
            labels={"what": "report on the cohort", "kind": "page"},
        ),
        manifest=report(
            "<results>/manifest.tsv",
            caption="captions/manifest.rst",
            category="Cohort",
            labels={"what": "last word on every image", "kind": "table"},
        ),
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    priority: 1000
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("report"),
        runtime=time_of("report"),
        disk_mb=disk_of("report"),
    params:
        config=canonical(config),
    script:
        "../scripts/report.py"


rule batches:
    """All batches as far as the results, without report and verdict: a part of them with ``--batch batches=1/10``."""
    input:
        exported,


rule verdict:
    """Fail, naming the scans, when more of the cohort was set aside than is tolerated."""
    input:
        records=records,
        report="<results>/report/index.html",
    output:
        report(
            "<work>/verdict.txt",
            caption="captions/verdict.rst",
            category="Cohort",
            labels={"what": "verdict", "kind": "text"},
        ),
    log:
        "<logs>/verdict.log",
    benchmark:
        "<benchmarks>/verdict.tsv"
    priority: 1000
    retries: 0
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("verdict"),
        runtime=time_of("verdict"),
        disk_mb=disk_of("verdict"),
    params:
        tolerate=config["quarantine"]["tolerate"],
        config=canonical(config),
    script:
        "../scripts/verdict.py"
