"""Models as others use them: Transformers folders that need nothing of this project.

checkpoint or model folder ─▶ source.py ─▶ Source(network, weights, tokenizer)
                                             │
    form steel      weights as they are, code beside them     remote_code.py ◀── our modules
    form qwen2      a dense model under Qwen2's names         qwen2.py
    form published  the names of Steel-LLM's first release    published.py
                                             │
    folder.py ─▶ OUT/   whole or absent, readable by everybody who may read the folder
"""
