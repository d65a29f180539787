"""Checkpoints as bytes: where they lie, what their headers say, how their weights are packed.

    files ← folder, hub          where bytes come from (one port, two implementations)
    documents                    JSON from outside, with bounds
    headers, index → reading     what a checkpoint says it holds
    inventory, packing, numbers  what it really holds
    lists                        which modules an engine would take for quantized
    sidefiles                    everything that is not weights
    compare, distance            its bytes against the base's

Nothing here needs torch. NumPy is imported only where weights are decoded, so that a header
audit of a 20 GB checkpoint costs a few megabytes and a fraction of a second.
"""
