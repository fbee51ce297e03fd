"""One model for every rate against separate models: the runs, their results, and what they say."""
