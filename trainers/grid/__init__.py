"""A sheet of pictures over two things that vary, all else the same.

| file | does |
| --- | --- |
| `axes` | what varies, and what each cell is (no torch) |
| `drawing` | the cells' pictures, each base and adapter loaded once |
| `sheet` | the labelled PNG, and its parameters read back (no torch) |
"""
