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
        annotation_files,
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
        spec=option("annotations"),
        folder="resources/{dataset}/annotations",
        subsets=option("subsets"),
        config=dataset_file,
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
        dataset=whose_media_are("folder"),
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


rule fetch_from_archives:
    input:
        annotations="results/{dataset}/annotations.json",
    output:
        "resources/{dataset}/media/{shard}.tsv",
    log:
        "logs/{dataset}/fetch_from_archives/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/fetch_from_archives/{shard}.tsv"
    wildcard_constraints:
        dataset=whose_media_are("archives"),
    conda:
        "../envs/fetch.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=1440,
        downloads=1,
    params:
        media=media_options("archives"),
        config=dataset_file,
        subsets=option("subsets"),
        code=code("fetch_from_archives.py"),
    script:
        "../workflow/scripts/fetch_from_archives.py"


rule fetch_from_youtube:
    input:
        annotations="results/{dataset}/annotations.json",
    output:
        "resources/{dataset}/media/{shard}.tsv",
    log:
        "logs/{dataset}/fetch_from_youtube/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/fetch_from_youtube/{shard}.tsv"
    wildcard_constraints:
        dataset=whose_media_are("youtube"),
    conda:
        "../envs/fetch.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=2880,
        downloads=1,
    params:
        media=media_options("url", "format", "path"),
        config=dataset_file,
        subsets=option("subsets"),
        code=code("fetch_from_youtube.py"),
    script:
        "../workflow/scripts/fetch_from_youtube.py"


rule list_annotated:
    input:
        annotations="results/{dataset}/annotations.json",
    output:
        "results/{dataset}/manifest/{shard}.tsv",
    log:
        "logs/{dataset}/list_annotated/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/list_annotated/{shard}.tsv"
    wildcard_constraints:
        dataset=whose_media_are("none"),
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        subsets=option("subsets"),
        code=code("list_annotated.py"),
    script:
        "../workflow/scripts/list_annotated.py"


rule inspect_videos:
    input:
        "resources/{dataset}/media/{shard}.tsv",
    output:
        "results/{dataset}/manifest/{shard}.tsv",
    log:
        "logs/{dataset}/inspect_videos/{shard}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/inspect_videos/{shard}.tsv"
    wildcard_constraints:
        dataset=whose_media_are("render", "folder", "archives", "youtube"),
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
