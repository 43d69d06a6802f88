"""Reading of what people write: size, depth and kind are limited before anything is built of it.

files.py       a file as text or JSON: of a sane size, a regular file, UTF-8, an object
yaml_text.py   YAML as plain values: bounded, without what YAML reads in a surprising way
"""
