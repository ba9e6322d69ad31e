"""List the files of one shard of the videos of a dataset, which lie in a folder."""

from avfusion.data.annotations import read_annotations
from avfusion.media.listing import find_files, list_videos, write_listing
from avfusion.runlog import job

with job(snakemake.log[0]):
    shard, shards = map(int, snakemake.wildcards.shard.split("of"))
    annotations = read_annotations(snakemake.input.annotations)
    files = find_files(snakemake.params.folder)
    subsets = snakemake.params.subsets.values()
    write_listing(snakemake.output[0], list_videos(annotations, subsets, files, shard, shards))
