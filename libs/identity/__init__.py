"""Who calls: the judgement of peer certificates, and the grants of key owners."""
