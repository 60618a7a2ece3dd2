"""Optimizers: functions of the named parameters that return a `torch.optim.Optimizer`."""
