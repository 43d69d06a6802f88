"""Deployments and their schedules on a Prefect server, and flows that schedules start.

kept.py          prefect.yaml, and what was changed in the page since, merged
registration.py  the same, read from a server and registered there
"""
