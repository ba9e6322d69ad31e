"""Lay windows of several lengths over every video that can be used."""

from avfusion.data.manifest import read_manifest
from avfusion.data.proposals import sliding_windows, write_proposals
from avfusion.runlog import job

with job(snakemake.log[0]):
    windows = snakemake.params.windows
    proposals = {
        row.id: sliding_windows(row.duration, windows["lengths"], windows["overlap"])
        for row in read_manifest(snakemake.input.manifest)
        if row.ok
    }
    write_proposals(snakemake.output[0], proposals, source=f"windows of {windows['lengths']} s")
