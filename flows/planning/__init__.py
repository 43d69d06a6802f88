"""A pipeline before it runs: tokens, hours, memory, cost, disk; and what an edit makes anew.

    configuration + store ──▶ corpora.py    tokens and epochs by source
                          ──▶ trainings.py  pretraining, SFT and DPO (arithmetic: model/cost)
                          ──▶ disk.py       bytes by stage, against what is free
                          ──▶ cautions.py   what will be regretted
                          ──▶ changes.py    stages that another configuration makes anew, and why
    forecast.py joins them; table.py writes them for a terminal.

Each figure says where it is from: `measured` in the store, or `estimated` from what is stated.
"""
