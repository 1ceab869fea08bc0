"""The training service: training runs on PyTorch Distributed, the gates that judge them, and the model registry.

It owns runs, model versions with their evidence, aliases, and the sealed artifacts. It reads training sets and protected
attributes from the features service on behalf of whoever asked for the run, and has keys and signatures from the secrets
service. It never gives ranks anything but the training and validation splits, never uses a protected attribute as an
input, never registers what was not measured, and never moves an alias to a version that did not pass its gates.

The process itself imports no torch: a run is a child process that ends with it.
"""
