"""The lab: one base quantized by several recipes or variations of one, and compared on the same tokens.

It is how a maintainer chooses parameters for a new base. Each variant goes through the stages of a release up
to the audit, is scored by the engine that ships, over prose, code and chat apart, and is compared with the
first variant window by window, not only with the base. Choosing looks at one split of the texts (`choose`),
reporting at another (`report`), so that the best of many is not best by luck on what it is reported on.

    domains     the texts, and their two splits
    variants    what is asked for on the command line
    record      what one variant was measured to be: kept, and not measured again
    conditions  by which code, tools and machine: a record of others is not found
    compare     figures and paired intervals: pure
    tables      the evidence as text, and as points of a plot
    run         the edge: quantize, score, keep
"""
