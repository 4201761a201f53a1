"""Ours and the peers, measured side by side in one run: `python -m bench`, `QUICK=1 python -m bench`."""
