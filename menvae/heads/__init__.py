"""Semantic heads: a partition of the posterior mean [B, P] -> predicted z-scored targets [B, F].

A head is constructed with (num_latents, num_features) by code, and its tunables by configuration. An inverse head is
one of the same group with the two numbers exchanged: predictions [B, F] -> coordinates [B, P].
"""
