"""Several runs over a grid or a list of settings, started as one.

| file | does |
| --- | --- |
| `members` | `--sweep` read: a name, settings and a folder for each run; no torch |
| `run` | trains them: in turns in one process, or on Ray |
| `sharing` | what runs that take turns share: one base, what was encoded |
| `on_ray` | each run a task of a Ray cluster |
| `outcome` | how they ended |
"""
