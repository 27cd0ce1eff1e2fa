"""The Hugging Face Hub: this is the only code that speaks to it, but for `models/pushing.py`, which is published."""
