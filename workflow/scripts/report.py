"""Write the report: one HTML file with pictures."""

from avfusion.data.manifest import count_silent
from avfusion.report.html import write_report
from avfusion.report.results import ResultRow, tell_of_silence
from avfusion.runlog import job

with job(snakemake.log[0]):
    rows = [ResultRow(**row) for row in snakemake.params.rows]
    silence = count_silent(snakemake.input.manifest, snakemake.params.subset)
    rows = tell_of_silence(rows, *silence, snakemake.params.missing_audio)
    write_report(
        snakemake.output.page,
        snakemake.params.title,
        rows,
        dict(zip((row.experiment for row in rows), snakemake.input.detections, strict=True)),
        snakemake.input.annotations,
        snakemake.params.subset,
        snakemake.params.note,
        snakemake.params.facts,
        dict(zip(snakemake.params.recalled, snakemake.input.recalls, strict=True)),
    )
