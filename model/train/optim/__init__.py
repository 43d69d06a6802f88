"""Optimizers, the learning rate of a step, and gradients."""
