"""The cluster's half of `bouchet doctor`: a few cheap looks, each turned into checks by pure functions."""

from .probe import look_round

__all__ = ["look_round"]
