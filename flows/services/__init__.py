"""Servers of one machine: Prefect, MLflow and a worker."""
