"""Responses on their way to the client: server-sent events, the filters for each dialect, and the response writer."""
