"""Any source of episodes to a data set in our schema, with report and card."""
