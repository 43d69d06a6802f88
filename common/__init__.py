"""What every room uses: errors, durable files, provenance, child processes, configuration.

Standard library only where `model/` needs it (a bare GPU machine has neither pydantic nor YAML);
`recipes` alone reads YAML.
"""
