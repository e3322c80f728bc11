"""What is measured while a run trains: loss on held-out pictures, per picture and timestep; leak.

Nothing here draws from the run's randomness, so a run ends in the same adapter with it or without.
`findings` and `loss_map` are torch-free.
"""
