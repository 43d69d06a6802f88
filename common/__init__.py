"""Tools of every other package: errors, durable files, provenance, children, configuration.

Standard library only where `model/` needs it (a bare GPU machine has neither pydantic nor YAML);
`recipes` alone reads YAML.
"""
