"""The plain training loop and what it needs: checkpoints, ranks, seeds, the clock of the curriculum."""
