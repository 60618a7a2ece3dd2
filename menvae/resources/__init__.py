"""What a training step costs in FLOPs, bytes and memory, what a device can do, and what to change without memory."""
