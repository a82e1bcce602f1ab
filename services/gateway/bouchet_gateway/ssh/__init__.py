"""The one SSH connection: login, host keys, prompts, commands, files and channels."""
