"""Cost of a training by arithmetic, before anything runs: parameters, FLOPs, memory, hours.

    settings ──▶ parts.py    parameters by part; weights that multiply a token
             ──▶ flops.py    FLOPs of a token, as MFU counts them
             ──▶ memory.py   bytes of one GPU by part
             ──▶ gpus.py     peak, memory, power and price of GPUs by name
             ──▶ training.py all of it for a pretraining on N ranks

Imports neither torch nor Transformers where the model is our own.
"""
