"""Text for people: tables, progress and prompts."""
