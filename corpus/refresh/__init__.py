"""The part of a corpus that is new, beside what a training has already.

commits.py  newest commits of repositories on hubs
seen.py     documents whose text was there before, word for word
copies.py   documents that are near-duplicates of texts that were kept before
"""
