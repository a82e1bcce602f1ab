"""`bouchet setup`: from a fresh clone to the first answer on a cluster, step by step."""
