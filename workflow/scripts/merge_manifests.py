"""Join the manifests of all shards, videos in the order in which they were dealt out to them."""

from itertools import zip_longest

from avfusion.data.manifest import read_manifest, write_manifest
from avfusion.runlog import job

with job(snakemake.log[0]):
    rounds = zip_longest(*map(read_manifest, snakemake.input))
    write_manifest(snakemake.output[0], (row for rows in rounds for row in rows if row is not None))
