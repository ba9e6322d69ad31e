"""Open every video of a shard once: which can be used, how long they are, and whether they have sound."""

from avfusion.data.manifest import write_manifest
from avfusion.media.inspect import inspect_videos
from avfusion.media.listing import read_listing
from avfusion.runlog import job

with job(snakemake.log[0]):
    write_manifest(snakemake.output[0], inspect_videos(read_listing(snakemake.input[0])))
