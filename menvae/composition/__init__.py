"""The composition root: builds data, model and objective from a checked configuration."""
