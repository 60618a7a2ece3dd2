"""A sweep while it runs: what has become of its points, what they have cost, and when they will be done."""
