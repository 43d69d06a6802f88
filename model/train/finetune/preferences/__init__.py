"""Direct preference optimization: pairs, reference log-probabilities, losses and their figures.

encoding.py     a pair as token ids, whole or not at all
selection.py    pairs that say something, held-out ones, Chinese:English at the ratio
prepare.py      the pairs of a job on disk, and counts of all that are left out
batches.py      micro-batches: both answers behind their prompt, each a document of its own
reference.py    log-probabilities under the reference, computed once and kept
objective.py    losses of pairs, rewards, margins, distance to the reference
"""
