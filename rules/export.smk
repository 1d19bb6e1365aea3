rule export:
    """Write the BIDS derivatives of a batch."""
    input:
        images=stage_before("export"),
        before=record_before("export"),
    output:
        record=directory("<work>/records/export/{batch}"),
        # in the results, so that a batch whose results were deleted is exported again
        exported=touch("<results>/.cohortex/exported/{batch}"),
    log:
        "<logs>/export/{batch}.log",
    benchmark:
        "<benchmarks>/export/{batch}.tsv"
    priority: 100 + position("export")
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory("export"),
        runtime=minutes("export"),
        disk_mb=disk("export"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("export"),
        version=stage_version("export"),
        seed=config["seed"],
        work=work_folder,
        results=results_folder,
    script:
        "../scripts/export.py"
