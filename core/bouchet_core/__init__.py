"""What the services of bouchet-llm share: values, errors, the store, configuration files and the gateway client."""
