"""Python environments, locks and tools."""
