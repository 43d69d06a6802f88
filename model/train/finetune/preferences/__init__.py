"""Direct preference optimization: pairs, reference log-probabilities, losses and their figures.

encoding.py     a pair as token ids, whole or not at all
selection.py    pairs that say something, held-out ones, Chinese:English at the ratio
log_probs.py    log-probability of each token of an answer, many answers in one row
reference.py    those of the reference model, computed once and kept
objective.py    losses of pairs, rewards, margins, distance to the reference
"""
