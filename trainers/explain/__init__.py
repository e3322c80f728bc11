"""What a run's events say, in words: under- or over-fit, leaking, odd pictures, what to change.

No torch: `lora-diffusion explain` prints it, and the studio shows it.

| file | does |
| --- | --- |
| `record` | events put together: losses, measurements, warnings, outcome |
| `verdict` | judges them: the fit, and advice for the next run |
| `explanation` | reads a run's folder; the whole in words |
"""

from trainers.explain.explanation import Explanation, explain
from trainers.explain.verdict import Advice

__all__ = ["Advice", "Explanation", "explain"]
