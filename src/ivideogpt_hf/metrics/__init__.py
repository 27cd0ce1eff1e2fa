"""Distances between frames and the use of codes, for training, evaluation and planning."""

# Name of the Frechet video distance on the features of I3D, in results, tables and cards.
FVD = "FVD (I3D)"
# Name of the simplest prediction, which a model has to beat, in the same places.
REPEAT = "repeat the last frame"
