"""Which sample when (order.py), which source when (mixture.py), and reading them (loader.py,
collate.py).
"""
