"""The `lora-diffusion` command: `main` is the table of verbs, and each verb has its file."""
