# From scores to detections, and what they are worth.


rule detections:
    input:
        scores="results/{dataset}/scores/{experiment}/seed{seed}.h5",
        manifest="results/{dataset}/manifest.tsv",
    output:
        "results/{dataset}/detections/{experiment}/seed{seed}.json",
    log:
        "logs/{dataset}/detections/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/detections/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(proposing=False),
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        postprocess=option("postprocess"),
        code=code("detections.py"),
    script:
        "../workflow/scripts/detections.py"


rule label_proposals:
    input:
        proposals="results/{dataset}/proposals/{experiment}/seed{seed}.h5",
        class_scores="results/{dataset}/class_scores/{experiment}/seed{seed}.h5",
        manifest="results/{dataset}/manifest.tsv",
    output:
        "results/{dataset}/detections/{experiment}/seed{seed}.json",
    log:
        "logs/{dataset}/label_proposals/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/label_proposals/{experiment}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments_that(proposing=True),
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        labelling=option("labelling"),
        code=code("label_proposals.py"),
    script:
        "../workflow/scripts/label_proposals.py"


rule evaluate:
    input:
        detections="results/{dataset}/detections/{experiment}/seed{seed}.json",
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/evaluation/{experiment}/seed{seed}.json",
    log:
        "logs/{dataset}/evaluate/{experiment}/seed{seed}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/evaluate/{experiment}/seed{seed}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        subset=option("subsets", "test"),
        tiou=option("tiou"),
        code=code("evaluate.py"),
    script:
        "../workflow/scripts/evaluate.py"


rule recall:
    input:
        proposals="results/{dataset}/proposals/{source}.h5",
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/recall/{source}.json",
    log:
        "logs/{dataset}/recall/{source}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/recall/{source}.tsv"
    wildcard_constraints:
        source="windows|list|.+/seed[0-9]+",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        subset=option("subsets", "test"),
        ranked=lambda wildcards: "/" in wildcards.source,
        code=code("recall.py"),
    script:
        "../workflow/scripts/recall.py"
