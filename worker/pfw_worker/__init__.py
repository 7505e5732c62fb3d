"""The worker daemon: one supervisor per machine that runs no user code, and the slot processes that do."""
