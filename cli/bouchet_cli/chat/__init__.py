"""The conversation of 'bouchet chat'."""
