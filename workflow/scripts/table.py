"""Write the result table: a row per experiment."""

from avfusion.data.manifest import count_silent
from avfusion.report.results import ResultRow, tell_of_silence
from avfusion.report.table import write_table
from avfusion.runlog import job

with job(snakemake.log[0]):
    rows = [ResultRow(**row) for row in snakemake.params.rows]
    silence = count_silent(snakemake.input.manifest, snakemake.params.subset)
    write_table(snakemake.output[0], tell_of_silence(rows, *silence, snakemake.params.missing_audio))
