"""The life of a run: identity, directory, training, results."""
