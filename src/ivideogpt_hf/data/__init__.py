"""Episodes from anywhere, as ordinary Hugging Face datasets, and training clips from them."""
