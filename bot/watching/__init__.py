"""The parts of `bot.watch`: what it finds, its rules, and one author's tick."""
