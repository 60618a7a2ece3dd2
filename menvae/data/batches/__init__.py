"""Splits, order, augmentation and batches of prepared subjects."""
