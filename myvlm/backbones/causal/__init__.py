"""Causal families: rows stand behind a picture's tokens, and what comes of them is computed in three ways:

- `answer_loss` is one whole pass over picture, rows and texts: of replies that are verified, and in families
  without prefixes.
- `prefixes` keeps the keys and values of all that stands before the rows (`prefix_cache`), once a view, and
  `tail_loss` is a pass over the rest alone, in fused layers (`fused`): of learning and of held-out views.
- `tail_losses` is the same for many steps in a row, replayed as a graph on one GPU (`cuda_graph`).

Each gives the loss of the first, but for rounding, and goes without what a model cannot do.
"""
