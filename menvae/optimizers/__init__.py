"""Optimizers: functions of the model's parameters that return a `torch.optim.Optimizer`."""
