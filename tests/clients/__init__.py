"""Programs that others wrote, against a real gateway: each in the environment that `make test-clients` installs."""
