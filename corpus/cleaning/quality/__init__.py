"""The quality of web pages: a score from 0 (spam) to 1, and rules for what is recognisable.

    text ─▶ features.py   measures of a page (lines, repetition, families of words), hashed n-grams
         ─▶ model.py      trees over the measures and weights of the n-grams ─▶ score
                          or a fastText model of one's own
    train.py              a model from good and bad pages
    rules.py              rules that drop alone, each with its reason

The operators `quality_filter` and `spam_rules_filter` (corpus/cleaning/operators) apply them.
"""
