"""Load on the whole suite: users of every service over mutual TLS, driven by Locust, held to budgets.

The calls are made by an asyncio process of their own (``generator``); Locust decides how many users there are, spreads them
over workers and keeps its statistics (ADR 0014).
"""
