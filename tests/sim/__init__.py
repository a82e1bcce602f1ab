"""A simulation of people, a cluster and the policies that keep a model there: `python -m tests.sim --help`."""
