"""The injector: adds the sidecar to pods, at admission or in files."""
