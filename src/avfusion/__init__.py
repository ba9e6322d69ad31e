"""Temporal action localization in video with sound.

The package does the work and knows nothing of Snakemake; importing it is cheap (no torch).
docs/architecture.md is the map.
"""

__version__ = "0.1.0"
