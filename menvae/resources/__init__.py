"""What a training step costs (FLOPs, bytes, memory), what a device can do, and where the time of a step goes."""
