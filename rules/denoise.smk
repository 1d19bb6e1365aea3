rule denoise:
    """Remove noise from every image of a batch with the configured model or filter."""
    input:
        images=stage_before("denoise"),
        before=record_before("denoise"),
        models=model_folder("denoise"),
    output:
        images=kept("denoise", directory("<work>/denoise/{batch}")),
        record=directory("<work>/records/denoise/{batch}"),
    log:
        "<logs>/denoise/{batch}.log",
    benchmark:
        "<benchmarks>/denoise/{batch}.tsv"
    priority: 100 + position("denoise")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=memory("denoise"),
        runtime=minutes("denoise"),
        disk_mb=disk("denoise"),
        gpu=gpus("denoise"),
        last_attempt=last,
        device=config["device"],
    params:
        settings=settings("denoise"),
        version=stage_version("denoise"),
        seed=config["seed"],
        work=work_folder,
        models=models("denoise"),
    script:
        "../scripts/denoise.py"
