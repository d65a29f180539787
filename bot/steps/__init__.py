"""What each stage is given, and when it has nothing to do: a function a stage, job in, "did something" out.

Stages work on what they are handed; it is gathered here from the release's folder, and the digest
of a stage's inputs says whether they changed. Only `bot.pipeline` knows the order.
"""
