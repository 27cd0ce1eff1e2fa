"""Training clips from data sets in our schema: which frames, in which order, as which batches."""
