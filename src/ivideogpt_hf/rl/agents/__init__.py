"""DrQ-v2, and all off-policy agents by name."""
