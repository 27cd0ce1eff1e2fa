"""Distances between frames and the use of codes, for training, evaluation and planning."""

# The name of the Frechet video distance on the features of I3D, wherever results are kept or shown.
FVD = "FVD (I3D)"
