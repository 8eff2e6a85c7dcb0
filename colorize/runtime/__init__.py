"""Ground floor: errors, files, devices, processes, signals; nothing here knows of colour."""
