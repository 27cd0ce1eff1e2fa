"""A world model for many clients at once, over HTTP and WebSocket."""

# The environment variable with the token that a server asks for, and that clients show.
TOKEN_VARIABLE = "IVIDEOGPT_SERVER_TOKEN"
# Seconds that a client waits for an answer, and that a server's model may spend on one call.
CALL_SECONDS = 300.0
