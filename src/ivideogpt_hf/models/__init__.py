"""The networks. A closed folder: torch, transformers, diffusers and siblings only, so that it can be published as
remote code."""
