rule export:
    """Write the BIDS derivatives of a batch."""
    input:
        images=stage_before("export"),
        before=record_before("export"),
    output:
        record=directory("<work>/records/export/{batch}"),
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
    params:
        settings=settings("export"),
        version=stage_version("export"),
        seed=config["seed"],
        device=config["device"],
        work=WORK,
        results=config["output"],
    script:
        "../scripts/export.py"
