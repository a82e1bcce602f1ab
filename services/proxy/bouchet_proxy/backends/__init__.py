"""The two ways of a request to a model: straight to vLLM, or through LiteLLM."""
