"""From cleaned lines to shards: the encoder, the pieces of work, and the processes that do it.

    fast.py      ids in bulk, and the proofs that they are Transformers' own
    parts.py     a cleaned file in ranges of bytes, and their texts
    packing.py   one part ─▶ its shards
    workers.py   parts ─▶ worker processes ─▶ what they wrote
    __main__.py  `python -m corpus.packing`: a worker process

Neither Prefect nor Transformers is imported here: a worker process is to be small.
"""
