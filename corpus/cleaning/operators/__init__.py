"""Data-Juicer operators of our own, where the library has no parameter for what Chinese needs.

Each file is named after its operator and stands alone: Data-Juicer imports it by its path (the
recipe's `custom_operator_paths`), outside of any package, also under plain `dj-process`.
"""
