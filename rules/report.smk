# The table and the report of a dataset.


rule table:
    input:
        evaluations=evaluations_of,
    output:
        report(
            "results/{dataset}/mAP.tsv",
            caption="../workflow/report/table.rst",
            category="{dataset}",
            labels={"what": "mAP of every experiment"},
        ),
    log:
        "logs/{dataset}/table.log",
    benchmark:
        "benchmarks/jobs/{dataset}/table.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=table_rows,
        code=code("table.py"),
    script:
        "../workflow/scripts/table.py"


rule report:
    input:
        evaluations=evaluations_of,
        detections=first_detections_of,
        annotations="results/{dataset}/annotations.json",
    output:
        page=report(
            "results/{dataset}/report.html",
            caption="../workflow/report/page.rst",
            category="{dataset}",
            labels={"what": "report"},
        ),
    log:
        "logs/{dataset}/report.log",
    benchmark:
        "benchmarks/jobs/{dataset}/report.tsv"
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
        title=title,
        note=report_note,
        facts=facts,
        code=code("report.py"),
    script:
        "../workflow/scripts/report.py"
