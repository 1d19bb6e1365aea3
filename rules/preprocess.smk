rule preprocess:
    """Correct the bias field, normalise intensities and run the configured chain of filters."""
    input:
        images=stage_before("preprocess"),
        before=record_before("preprocess"),
    output:
        images=kept("preprocess", directory("<work>/preprocess/{batch}")),
        record=directory("<work>/records/preprocess/{batch}"),
    log:
        "<logs>/preprocess/{batch}.log",
    benchmark:
        "<benchmarks>/preprocess/{batch}.tsv"
    priority: 100 + position("preprocess")
    conda:
        "../envs/volumes.yaml"
    threads: 1
    resources:
        mem_mb=memory("preprocess"),
        runtime=minutes("preprocess"),
        disk_mb=disk("preprocess"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("preprocess"),
        version=stage_version("preprocess"),
        seed=config["seed"],
        work=work_folder,
    script:
        "../scripts/preprocess.py"
