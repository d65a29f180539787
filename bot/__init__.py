"""release-bot: quantized Qwen releases that carry their own evidence."""

__version__ = "0.1.0"
