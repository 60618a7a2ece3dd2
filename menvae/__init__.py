"""menvae: experiment sweeper for semi-supervised, disentangled variational autoencoders on brain-tumour MRI."""

__version__ = "0.1.0"
