"""Pure tensor functions, each checked against a closed form or another implementation."""
