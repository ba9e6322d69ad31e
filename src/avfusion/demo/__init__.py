"""The demo dataset: synthetic untrimmed videos with sound that the project renders itself.

`scenes` decides what happens in every video (cheap, no pixels), `draw` makes the pictures, `sound` the
sound, `render` the MP4 files, and `backbone` trains small networks on clips of the training subset.
"""
