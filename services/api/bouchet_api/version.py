"""Which version this is: the project's packages have one number, which the CLI compares with its own."""

VERSION = "0.1.0"
