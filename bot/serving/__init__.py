"""vLLM: one launcher, and what is measured through it.

`engine` is the pinned environment and this machine; `subject` a checkpoint to be served; `command` turns the
recipe's `serve:` into the command a card prints and the overlay this machine needs; `server` starts and ends
it. What is asked of it lies beside: `canaries`, `drafting`, `soak`, `speed`, and `scoring`, which runs the
engine in a process of its own for token log-probabilities. `examine` orders them: three starts a checkpoint.
"""
