"""Encoders: inputs [B, C, D, H, W] -> (mean, logvar), each [B, Z].

An encoder is constructed with (in_channels, size, z_dim) by code, and its tunables by configuration.
"""
