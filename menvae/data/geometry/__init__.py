"""The geometry of training: spacing, box, orientation."""
