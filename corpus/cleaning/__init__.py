"""Data-Juicer's operators in a process of their own, counted document by document.

    recipe.py          a native Data-Juicer YAML, checked without importing Data-Juicer
    pipeline.py        runs the library's own operator objects over batches
    job.py             what tasks/clean asks for
    ledger.py          what each operator did to each source
    language_model.py  the perplexity filter's model, trained from the corpus (ngram.py)
    lm_config.py       its settings
    __main__.py        `python -m corpus.cleaning job.json`: what tasks/clean starts

Data-Juicer's executor runs one `datasets.map` per operator, with seconds of overhead each; the
operators themselves need a fraction of that. Here they run in one pass, batch by batch, which also
lets every document be counted at every operator. The kept texts are those of `dj-process` (tested).

This package imports neither Prefect nor MLflow: the process starts in about two seconds.
"""
