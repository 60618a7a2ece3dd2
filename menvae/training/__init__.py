"""The training loop and its parts: checkpoints, ranks, seeds, curriculum."""
