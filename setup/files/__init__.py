"""Files made by setup: .env, secrets, SSH material."""
