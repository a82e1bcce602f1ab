"""HTTP/1.1 between the proxy and a slot of the gateway."""
