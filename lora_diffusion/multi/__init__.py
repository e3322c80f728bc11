"""Many adapters on one base, and samples of one batch that use different ones.

`lru` is a cache with a budget of bytes, `pages` moves adapters between disk, RAM and device with
two of them, `products` computes the updates of a batch, `batch` puts them on a base for the length
of a `with`, `drawing` draws pictures whose adapters differ.

The idea is that of language-model servers: the product with the base's weights is shared by the
whole batch, each sample's low-rank product stands beside it, and adapters wait in slower memory
until they are needed. Sources: Chen et al., "Punica: Multi-Tenant LoRA Serving"
(arXiv:2310.18547), section 4; Sheng et al., "S-LoRA: Serving Thousands of Concurrent LoRA Adapters"
(arXiv:2311.03285), sections 4 and 5. For diffusion the batch's rows are pictures, not tokens, and
guidance gives each picture two of them.
"""
