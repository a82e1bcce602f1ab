"""Pure rules of the Anthropic and OpenAI dialects: what a request may contain."""
