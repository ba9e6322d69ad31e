"""Take the proposals of lists in the SSN/BSN text format."""

from avfusion.data.manifest import read_manifest
from avfusion.data.proposal_list import proposals_from_list
from avfusion.data.proposals import write_proposals
from avfusion.runlog import job

with job(snakemake.log[0]):
    paths = snakemake.params.paths
    durations = {row.id: row.duration for row in read_manifest(snakemake.input.manifest)}
    write_proposals(snakemake.output[0], proposals_from_list(paths, durations), source=", ".join(paths))
