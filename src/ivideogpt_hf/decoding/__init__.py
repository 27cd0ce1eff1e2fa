"""Tokens of frames from the transformer: sampling, key/value tails, one pass, one frame. Knows no world state."""
