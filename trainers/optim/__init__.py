"""From gradients to new weights.

| file | does |
| --- | --- |
| `groups` | which parameters share a rate, and the limit on an update's norm |
| `optimizers` | optimizers by name, and their state in a checkpoint |
| `lr_schedule` | how the rate runs |
| `averaging` | the averaged weights that previews and exports show |
"""

from trainers.optim.groups import (
    NOTHING_IS_TRAINED,
    limit_norms,
    make_optimizer,
    own_rate,
    set_lr,
    shown_lr,
)

__all__ = [
    "NOTHING_IS_TRAINED",
    "limit_norms",
    "make_optimizer",
    "own_rate",
    "set_lr",
    "shown_lr",
]
