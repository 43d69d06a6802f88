"""Cleaning: Data-Juicer's operators in one pass over partitions, with a trace of every document.

    recipe.py                 a native Data-Juicer YAML, checked without importing Data-Juicer
    recipe_sets.py            a recipe for each family of sources; changes to an inherited one
    engine/                   the operators over partitions, in worker processes
    fast/                     faster implementations of the slowest operators, same results
    deduplication/            near-duplicates over the whole corpus, in bounded memory
    language_model/           the model behind the perplexity filter
    operators/                operators of our own
    review/                   a random sample of what was done; verdicts on it, replayed
    ray/                      the same recipe on a Ray cluster
    document_trace.py         what happened to each document; ledger.py adds it up by operator
    report.py, gates.py       the cleaning report; the share that may be dropped
    explain.py                the way of one document through the operators
    contamination_matches.py  evaluation questions found in documents
    prepare.py, offline.py    models in place; settings against downloads and installations
    __main__.py, job.py       the process that cleans all sources

Data-Juicer's executor runs one `datasets.map` per operator, with seconds of overhead each; the
operators themselves need a fraction of that. Here they run in one pass, batch by batch, which also
lets every document be counted at every operator. The kept texts are those of `dj-process` (tested).
"""
