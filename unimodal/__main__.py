"""`python -m unimodal`, which torchrun starts on every rank."""

from .cli import main

main()
