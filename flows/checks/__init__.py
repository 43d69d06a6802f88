"""Checks of a configuration, by what they need to know."""
