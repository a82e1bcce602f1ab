"""The cluster's part of `bouchet doctor`: a few cheap commands, whose output pure functions turn into checks."""

from .cluster import check_cluster

__all__ = ["check_cluster"]
