"""What the worker appends for the ledger: how long each job did what, and what sacct says of it."""
