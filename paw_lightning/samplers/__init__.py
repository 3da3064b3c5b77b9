"""Who writes the actions: the model itself, continuous batching, or a server."""
