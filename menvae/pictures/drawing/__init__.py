"""Pure functions from arrays to matplotlib figures; none of them saves, and none touches global state."""
