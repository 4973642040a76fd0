"""The search for the setting to train with: what is tried, for how long, and what goes on."""
