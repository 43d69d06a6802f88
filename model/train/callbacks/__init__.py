"""Callbacks: what watches a training without deciding anything in it, one file each.

    watchdog       ends ranks that hang or lost another rank, and says why
    metrics_file   metrics.jsonl
    health_log     health.jsonl: batches that were skipped, rollbacks
    sessions       sessions.jsonl: each time that processes took up the run
    energy         joules of the GPUs, by their driver's counter
    console        lines for people
    speed          tokens a second, FLOPs, memory, seconds of each phase of a step
    validation     loss on held-out samples
    profiler       traces of single steps
    export         permanent checkpoints as Transformers folders

Adding one takes a file here, with a subclass of `Callback` (callback.py shows when each method is
called), and an entry in the table of `build_callbacks` (model/train/build.py). The loop does not
change. What decides about a step is no callback: health's verdict, requests and the flag to stop
stand in model/train/trainer.py.
"""
