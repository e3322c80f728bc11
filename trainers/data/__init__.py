"""Pictures and captions: from files to what a step is given.

| files | do |
| --- | --- |
| `walk`, `scan`, `source`, `subsets`, `index`, `names` | which pictures there are, and where |
| `archive`, `shards`, `shard_index` | pictures within zips and tars |
| `decode`, `examine`, `integrity`, `duplicates` | one file: whole, upright, seen before |
| `doctor`, `problems` | what is wrong with a dataset |
| `fixes`, `mends`, `changes`, `intake`, `picture_edits` | what changes its files, and undoes it |
| `caption_files`, `caption_finder`, `caption_targets`, `text_encoding` | where captions are |
| `captions`, `caption_choice`, `caption_edits`, `tokens`, `captioners` | what they say |
| `buckets`, `bucket_settings`, `augment`, `masks` | how a picture is looked at |
| `encoding`, `prompts`, `cache` | encoded, and kept |
| `prepare`, `dataset`, `order` | a run's dataset, and which pictures make which batch |
"""
