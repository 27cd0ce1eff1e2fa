"""A world model for many clients at once, over HTTP and WebSocket."""
