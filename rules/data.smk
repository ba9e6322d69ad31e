# Annotations, media and the manifest: what there is to learn from, and which of it can be used.


rule render_annotations:
    output:
        "results/{dataset}/annotations.json",
    log:
        "logs/{dataset}/render_annotations.log",
    benchmark:
        "benchmarks/jobs/{dataset}/render_annotations.tsv"
    wildcard_constraints:
        dataset=one_of(RENDERED),
    localrule: True
    conda:
        "../envs/media.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        demo=demo,
        seed=option("media", "seed"),
        code=code("render_annotations.py"),
    script:
        "../workflow/scripts/render_annotations.py"


rule convert_annotations:
    input:
        lambda wildcards: if_there(option("annotations")(wildcards)),
    output:
        "results/{dataset}/annotations.json",
    log:
        "logs/{dataset}/convert_annotations.log",
    benchmark:
        "benchmarks/jobs/{dataset}/convert_annotations.tsv"
    wildcard_constraints:
        dataset=one_of(set(CONFIG.datasets) - set(RENDERED)),
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        path=option("annotations"),
        subsets=option("subsets"),
        code=code("convert_annotations.py"),
    script:
        "../workflow/scripts/convert_annotations.py"


rule render_videos:
    input:
        annotations="results/{dataset}/annotations.json",
    output:
        "resources/{dataset}/media/{shard}.tsv",
    log:
        "logs/{dataset}/render_videos/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/render_videos/{shard}.tsv"
    wildcard_constraints:
        dataset=one_of(RENDERED),
    conda:
        "../envs/media.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        demo=demo,
        seed=option("media", "seed"),
        subsets=option("subsets"),
        code=code("render_videos.py"),
    script:
        "../workflow/scripts/render_videos.py"


rule list_videos:
    input:
        lambda wildcards: if_there(option("media", "path")(wildcards)),
        annotations="results/{dataset}/annotations.json",
    output:
        "resources/{dataset}/media/{shard}.tsv",
    log:
        "logs/{dataset}/list_videos/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/list_videos/{shard}.tsv"
    wildcard_constraints:
        dataset=one_of(set(CONFIG.datasets) - set(RENDERED)),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        folder=option("media", "path"),
        subsets=option("subsets"),
        code=code("list_videos.py"),
    script:
        "../workflow/scripts/list_videos.py"


rule inspect_videos:
    input:
        "resources/{dataset}/media/{shard}.tsv",
    output:
        "results/{dataset}/manifest/{shard}.tsv",
    log:
        "logs/{dataset}/inspect_videos/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/inspect_videos/{shard}.tsv"
    conda:
        "../envs/media.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        code=code("inspect_videos.py"),
    script:
        "../workflow/scripts/inspect_videos.py"


rule merge_manifests:
    input:
        per_shard("results/{{dataset}}/manifest/{shard}.tsv"),
    output:
        report(
            "results/{dataset}/manifest.tsv",
            caption="../workflow/report/manifest.rst",
            category="Data",
            labels={"dataset": "{dataset}", "what": "videos"},
        ),
    log:
        "logs/{dataset}/merge_manifests.log",
    benchmark:
        "benchmarks/jobs/{dataset}/merge_manifests.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("merge_manifests.py"),
    script:
        "../workflow/scripts/merge_manifests.py"
