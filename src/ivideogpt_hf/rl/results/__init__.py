"""What finished runs achieved: read, compared, with intervals over seeds. Knows nothing of how a run goes."""
