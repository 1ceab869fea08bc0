"""Inference: serves model versions, and says why each prediction is what it is.

It owns deployments: which version each serves, a sealed copy of that version's artifact, dynamic batching, predictions
by tensor (Open Inference Protocol) and by entity, and explanations. It calls training (the registry) when a version is
deployed, features for the values of an entity, on behalf of whoever asks, and secrets for its keys.

It never reads the lake, never trains, never serves a version whose signature does not verify or whose gates did not all
pass, and never keeps an artifact or its key in clear.
"""
