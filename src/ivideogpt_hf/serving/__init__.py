"""A world model for many clients at once, over HTTP and WebSocket."""

# The environment variable with the token that a server asks for, and that clients show.
TOKEN_VARIABLE = "IVIDEOGPT_SERVER_TOKEN"
