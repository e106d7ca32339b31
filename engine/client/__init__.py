"""The WebSocket client: the same surface as the embedded engine, over a connection that comes and goes."""
