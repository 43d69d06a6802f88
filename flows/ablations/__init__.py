"""Runs that differ in one thing, compared in one table.

comparison.py   shared by them: the check of what is asked for, the open run
pretrainings.py the same pretraining with each setting
variants.py     speed by choice of kernels (Table 2)
corpora.py      the same small model on corpora that were cleaned in different ways
mixtures.py     SFT models of several mixtures from one base (Table 3): plan, trainings, table
parallel.py     several trainings at once, each with its share of the GPUs
one_mixture.py  one of these trainings, in a process of its own
"""
