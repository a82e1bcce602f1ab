"""The files that people write: the model catalog and the site file, read strictly."""
