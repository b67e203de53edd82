"""This module names the random streams of one seed, so that what draws for one purpose takes nothing from another.

A world and a learner draw from the stream of the seed itself. The streams of all other purposes are named here, in two
separate sets of numbers, because they are combined with the seed in two ways.

Some purposes have a seed of their own that nothing else uses, and no number here, which would change their results:
the order of a data set's rows in an epoch (seed, epoch), the division of a data set (seed), the actions of
`agent=random` (seed, call), the episodes of a foreign environment (seed, episode), and bootstraps (seed).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class GeneratorStream(IntEnum):
    """Purposes of NumPy generators, whose seed is a tuple with this number as its last part.

    Results depend on the numbers, so that none is changed or used again.
    """

    MATCHMAKING = 0  # which snapshot a league's learner meets
    EXPLOITER_RESET = 1  # whether a league's exploiter starts again from its first parameters
    FRAGMENT = 2  # the seed of the actions that an env runner samples in one fragment
    COLLECTION = 3  # the seeds of the episodes of a data set
    DISTILLATION = 4  # the episodes, and the random actions, that a tree, or a clone of a live teacher, learns from
    LATENT_NOISE = 5  # the noise of an epoch in which an autoencoder is trained
    GENERATIVE_TRAINING = 8  # the noise and dropout of an epoch in which a generative model is trained
    LEVEL_SAMPLING = 9  # the levels that a model of levels makes


class PhiloxStream(IntEnum):
    """Purposes of random numbers by Philox, whose key is the seed by exclusive or with `key`.

    No number is 0: that is the stream of the seed itself.
    """

    RANDOM_OPENING = 0x09E2  # moves before a learner's first one
    ROLE = 0x5EA7  # which role a learner plays in an episode
    OPPONENT = 0x21BA15  # which of several opponents plays an episode
    AVERAGE_POLICY = 0xA7E3  # which snapshot of an average policy plays an episode
    COLLECTED_ACTION = 0xDA7A  # actions of agents that are recorded in a data set
    COLLECTION_NOISE = 0x5EED  # random actions instead of an agent's in a data set
    SAMPLED_ACTION = 0xD1CE  # actions of opponents whose policies are evaluated together

    @property
    def key(self) -> np.uint64:
        """Return the number as NumPy's type of Philox keys."""
        return np.uint64(self.value)
