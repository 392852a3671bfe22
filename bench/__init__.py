"""What this machine and this product can do, measured: ``python -m bench``."""
