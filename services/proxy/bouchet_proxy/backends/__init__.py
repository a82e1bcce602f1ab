"""The two backends: directly to vLLM, and through LiteLLM."""
