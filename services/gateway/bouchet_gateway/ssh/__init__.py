"""The one SSH connection: login, prompts, host keys, commands and files."""
