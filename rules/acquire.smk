rule acquire:
    """Read every image of a batch from the user's files, refuse what is broken, bring it to one orientation and unit."""
    input:
        source,
    output:
        images=kept("acquire", directory("<work>/acquire/{batch}")),
        record=directory("<work>/records/acquire/{batch}"),
    log:
        "<logs>/acquire/{batch}.log",
    benchmark:
        "<benchmarks>/acquire/{batch}.tsv"
    priority: 100 + position("acquire")
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory("acquire"),
        runtime=minutes("acquire"),
        disk_mb=disk("acquire"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("acquire"),
        version=stage_version("acquire"),
        seed=config["seed"],
        work=work_folder,
    script:
        "../scripts/acquire.py"
