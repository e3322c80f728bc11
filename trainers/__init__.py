"""All that a training run needs.

The files here are the run itself. Both the command and the studio call one function, `run.run`:

| files | do |
| --- | --- |
| `dreambooth_lora`, `argv`, `layering` | the command: presets, files and options become settings |
| `run`, `preflight`, `setup`, `resume` | from start to finish, and on from a checkpoint |
| `batch`, `loop`, `diffusion`, `objective`, `prior` | the step, and what it is given |
| `outputs`, `preview`, `checkpoint`, `export`, `contact_sheet`, `sample_prompts` | what it writes |
| `events`, `teller`, `progress` | what it tells, to a file and to a person |
| `jobs`, `queue`, `control`, `stopping`, `sharing` | run folders and processes, seen from outside |
| `worker` | a process that stays and draws for the studio |

The folders are what a run uses, and what is done with several or after one:

| folder | holds |
| --- | --- |
| `spec` | every setting, declared once, a file a section |
| `importing` | other trainers' settings, read as ours |
| `data` | pictures and captions: found, examined, mended, bucketed, encoded, ordered |
| `optim` | optimizers, learning rates, averaged weights |
| `machine` | devices, several processes, what is done where memory or disk runs out |
| `planner` | what a run would do and take, without doing it |
| `validation` | what is measured while it trains |
| `tracking` | its figures in TensorBoard and Weights & Biases |
| `explain` | what its events say, in words |
| `sweep` | several runs started as one |
| `search` | the weights at which adapters do best |
| `grid` | sheets of pictures over two things that vary |
| `library` | a folder of adapters, indexed |
| `cli` | the `lora-diffusion` command, a file a verb |
"""
