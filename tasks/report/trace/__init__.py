"""From a number of a report back to the files that it was made from.

numbers.py   the numbers of a report, each with an id and the place that it was read from
lineage.py   the stages behind a number, down to the raw files
now.py       a number read or computed again, and the points of a curve
words.py     a chain in words, for a terminal
"""
