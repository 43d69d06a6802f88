"""Forms of the deployments: what the Prefect page shows for each parameter of a flow.

fields.py       each field: title, help with unit, range and the paper's value, bounds
choices.py      what can be chosen, from the recipes and configurations of the project
publish.py      a function's signature in the form that Prefect publishes
given.py        values of a command line that are of another type than their field

docs/adr/0072
"""
