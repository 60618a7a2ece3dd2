"""Decoders: z [B, Z] -> reconstruction [B, C, D, H, W].

A decoder is constructed with (z_dim, out_channels, size) by code, and its tunables by configuration. Its attribute
``output_size`` says what (D, H, W) it draws: the box, or for an auxiliary decoder something smaller.
"""
