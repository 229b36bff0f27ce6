"""The atlas: reference results as data: problems, their exact gradients, the exact accuracy of every estimator."""

from gradeval.atlas.entry import Entry, load, names

__all__ = ["Entry", "load", "names"]
