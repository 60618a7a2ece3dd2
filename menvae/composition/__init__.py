"""The composition root: a checked configuration becomes data, model and objective."""
