"""Model cards: facts of a checkpoint, results, and what a person says, rendered for the Hub."""
