"""Label masks: mesh geometry and the features that become targets."""
