"""A folder of adapters, indexed: what each is, found by words, trained again. No torch.

| file | does |
| --- | --- |
| `sidecars` | what other programs keep beside an adapter: read and written |
| `cards` | what the index knows of one file |
| `index` | the SQLite file: brought up to date, searched |
| `again` | a file's own settings as a run's TOML |
"""
