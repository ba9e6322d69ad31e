# From media (or what somebody has made of them) to features, per stream and shard. The backbones of the demo are trained here as well.


rule train_backbone:
    input:
        manifest="results/{dataset}/manifest.tsv",
        annotations="results/{dataset}/annotations.json",
    output:
        weights="results/{dataset}/backbones/{stream}.pt",
        description="results/{dataset}/backbones/{stream}.json",
    log:
        "logs/{dataset}/train_backbone/{stream}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/train_backbone/{stream}.tsv"
    wildcard_constraints:
        dataset=one_of(RENDERED),
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "training")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        streams=stream_options,
        options=option("backbone_training"),
        seed=option("media", "seed"),
        subset=option("subsets", "train"),
        threads=option("threads", "training"),
        code=code("train_backbone.py"),
    script:
        "../workflow/scripts/train_backbone.py"


rule extract_features:
    input:
        weights=weights_file,
        manifest="results/{dataset}/manifest/{shard}.tsv",
    output:
        "results/{dataset}/features/{stream}/{shard}.h5",
    log:
        "logs/{dataset}/extract_features/{stream}/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/extract_features/{stream}/{shard}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: option("threads", "features")
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=gpus,
    params:
        streams=stream_options,
        weights=weights,
        device=option("device"),
        threads=option("threads", "features"),
        code=code("extract_features.py"),
    script:
        "../workflow/scripts/extract_features.py"
