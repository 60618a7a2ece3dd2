"""Pure functions from arrays to matplotlib figures; they save nothing and change no global state."""
