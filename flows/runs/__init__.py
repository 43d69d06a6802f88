"""Runs of a flow: from the check of a configuration to the recorded end."""
