rule classify:
    """Give every subject a label and a probability, and write its features."""
    input:
        images=stage_before("classify"),
        before=record_before("classify"),
        models=model_folder("classify"),
    output:
        images=kept("classify", directory("<work>/classify/{batch}")),
        record=directory("<work>/records/classify/{batch}"),
    log:
        "<logs>/classify/{batch}.log",
    benchmark:
        "<benchmarks>/classify/{batch}.tsv"
    priority: 100 + position("classify")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("classify"),
        runtime=minutes("classify"),
        disk_mb=disk("classify"),
        gpu=gpus("classify"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("classify"),
        version=stage_version("classify"),
        seed=config["seed"],
        work=work_folder,
        models=models("classify"),
    script:
        "../scripts/classify.py"
