"""Models side by side in MLflow: their colours, scores, versions, and the page that compares them.

shown.py ──▶ scores.py     figures of evaluations
         ──▶ registry.py   kept checkpoints, versions, aliases
         ──▶ view.py       charts chosen, one link
             colours.py    a colour and a place for each
"""
