"""Make the manifest of one shard of videos of which there are features and no media."""

from avfusion.data.annotations import read_annotations
from avfusion.data.manifest import rows_of_annotations, shard_of, write_manifest
from avfusion.runlog import job

with job(snakemake.log[0]):
    shard, shards = map(int, snakemake.wildcards.shard.split("of"))
    annotations = read_annotations(snakemake.input.annotations)
    rows = rows_of_annotations(annotations, snakemake.params.subsets.values())
    write_manifest(snakemake.output[0], shard_of(rows, shard, shards))
