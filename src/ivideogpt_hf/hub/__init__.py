"""The Hugging Face Hub. What speaks to it elsewhere are `models/`, which is published with checkpoints and loads and
pushes as transformers does, and `data/clips/store.py`, which reads episodes while it streams, under `hub_errors`."""
