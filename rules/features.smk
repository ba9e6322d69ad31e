# From media (or what somebody has made of them) to features, per stream and shard. The backbones of the demo are trained here as well.


rule fetch_weights:
    output:
        "resources/weights/{file}",
    log:
        "logs/fetch_weights/{file}.log",
    benchmark:
        "benchmarks/jobs/fetch_weights/{file}.tsv"
    wildcard_constraints:
        file=one_of([file.name for file in FILES.values()]),
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
        downloads=1,
    params:
        code=code("fetch_weights.py"),
    script:
        "../workflow/scripts/fetch_weights.py"


rule convert_vggish:
    input:
        "resources/weights/vggish_model.ckpt",
    output:
        "resources/weights/vggish_model.pt",
    log:
        "logs/convert_vggish.log",
    benchmark:
        "benchmarks/jobs/convert_vggish.tsv"
    localrule: True
    conda:
        "../envs/tensorflow.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code("convert_vggish.py"),
    script:
        "../workflow/scripts/convert_vggish.py"


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
        weights=weights_files,
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
        running=option("extraction"),
        code=code("extract_features.py"),
    script:
        "../workflow/scripts/extract_features.py"
