"`python -m cifar_nb`, and so `torchrun ... -m cifar_nb`, is the `cifar_nb` command."
from .cli import main

if __name__ == '__main__': raise SystemExit(main())
