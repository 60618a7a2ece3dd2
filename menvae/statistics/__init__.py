"""Pure tensor functions, each tested against a closed form or another implementation."""
