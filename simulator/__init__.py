"""Replays a day's load against the autoscaling policies of ``deploy/k8s``, request by request: ``make simulate``."""
