"""`python -m trainers.cli` is the `lora-diffusion` command."""

import sys

from trainers.cli.main import main

sys.exit(main())
