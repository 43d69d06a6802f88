"""From cleaned lines to shards of token ids.

    batches.py         texts of a partition, some MB at a time
    fast_encoder.py    ids in bulk, compared with Transformers' own
    pack_partition.py  one partition ─▶ its shards
    workers.py         partitions ─▶ worker processes ─▶ their shards
    __main__.py        `python -m corpus.packing JOB.json`: a worker process

Neither Prefect nor Transformers is imported here: a worker process is to be small.
"""
