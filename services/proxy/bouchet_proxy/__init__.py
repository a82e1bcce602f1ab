"""The HTTP proxy for LLM clients: Anthropic and OpenAI APIs in front of the models that vLLM serves on the cluster."""
