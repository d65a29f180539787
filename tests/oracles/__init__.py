"""The formats and weight updates of the recipes, as plainly as NumPy can say them.

One file a method. They follow papers and format descriptions, column by column and without blocks, so that a
tool's speed-ups (blocked updates, fused kernels, packing tricks) are held to what they must equal. Slow on
purpose; for small layers.
"""
