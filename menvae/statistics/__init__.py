"""Pure functions of tensors and arrays, each tested against a closed form or another implementation."""
