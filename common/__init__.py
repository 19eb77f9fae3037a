"""What every script needs: settings, files, the machine, checkpoints, pictures. Imports nothing else of the project."""
