"""The Hugging Face Hub. No other code speaks to it but `models/pushing.py`, which is published with checkpoints."""
