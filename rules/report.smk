# The table and the report of a dataset.


rule table:
    input:
        evaluations=evaluations_of,
        manifest="results/{dataset}/manifest.tsv",
    output:
        report(
            "results/{dataset}/mAP{table}.tsv",
            caption="../workflow/report/table.rst",
            category="{dataset}",
            labels={"what": "mAP of every experiment{table}"},
        ),
    log:
        "logs/{dataset}/table{table}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/table{table}.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=table_rows,
        subset=option("subsets", "test"),
        missing_audio=option("missing_audio"),
        code=code("table.py"),
    script:
        "../workflow/scripts/table.py"


rule report:
    input:
        evaluations=evaluations_of,
        manifest="results/{dataset}/manifest.tsv",
        detections=first_detections_of,
        recalls=recalls_of,
        annotations="results/{dataset}/annotations.json",
    output:
        page=report(
            "results/{dataset}/report{table}.html",
            caption="../workflow/report/page.rst",
            category="{dataset}",
            labels={"what": "report{table}"},
        ),
    log:
        "logs/{dataset}/report{table}.log",
    benchmark:
        "benchmarks/jobs/{dataset}/report{table}.tsv"
    localrule: True
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        rows=table_rows,
        subset=option("subsets", "test"),
        missing_audio=option("missing_audio"),
        title=title,
        note=report_note,
        facts=facts,
        recalled=recalled,
        code=code("report.py"),
    script:
        "../workflow/scripts/report.py"
