"""One thin application per command."""
