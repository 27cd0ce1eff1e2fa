"""The buffer of real and imagined experience, and its parts."""
