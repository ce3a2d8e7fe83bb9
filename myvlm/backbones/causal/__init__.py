"""Causal families: embedding rows follow a picture's visual tokens. Their loss is computed in three ways:

- `answer_loss` runs one full pass over picture, rows and texts. It is used to verify replies, and to learn in
  families without prefixes.
- `prefixes` caches the keys and values of everything before the rows (`prefix_cache`), once per view.
  `tail_loss` then runs only the rest, in fused layers (`fused`). It is used for learning and held-out views.
- `tail_losses` does the same for many steps in a row, replayed as a CUDA graph on one GPU (`cuda_graph`).

All three give the same loss up to rounding. The second and third skip what a model does not support.
"""
