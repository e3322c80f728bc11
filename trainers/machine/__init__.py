"""What a run has of the machine, and what it does where that is not enough.

| file | does |
| --- | --- |
| `devices` | device, precision and memory, through accelerate |
| `team` | several processes that train one run |
| `unet_options` | how the UNet computes: attention, storage, recomputation, compilation |
| `memory` | savings taken up where memory runs out |
| `disk` | what is said where the disk fails |
| `examine` | what is wrong with the machine, before any run; no torch |
"""
