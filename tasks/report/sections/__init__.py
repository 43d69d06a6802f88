"""Sections of the report as Markdown, one module each; tasks/report/format.py puts them in order.

A section is a function from the report's data and a `Writer` to text. A new one needs its title and
texts in every file of language/, and a line in format.py.
"""
