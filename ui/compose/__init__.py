"""The Compose tab: adapters chosen, weighed, drawn with, compared, folded and exported."""
