"""pytinykv: TinyKV in Python, a distributed, replicated, transactional key-value store that always stops."""

__version__ = "0.1.0"
