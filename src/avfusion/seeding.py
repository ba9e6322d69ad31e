"""One seed, one result: every random generator of a job from one number."""

import random
import zlib

import numpy as np


def derive(seed: int, *names: object) -> int:
    """A seed for one named part of a job, so that parts do not share a random sequence.

    Adding a part leaves the sequences of the others as they were.
    """
    return zlib.crc32(":".join(map(str, (seed, *names))).encode()) & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, for code that draws from them."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
