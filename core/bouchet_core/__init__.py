"""What the rooms of bouchet-llm share: nouns, errors, the store, the catalog, the gateway client."""
