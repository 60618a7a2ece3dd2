"""Semantic heads: one partition of the posterior mean [B, P] -> predicted z-scored targets [B, F].

Code passes (num_latents, num_features) to the constructor; the configuration passes the tunables. An inverse head is a
head with the two numbers swapped: predictions [B, F] -> coordinates [B, P].
"""
