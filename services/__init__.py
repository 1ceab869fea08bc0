"""One directory per service. Services never import each other: they meet over gRPC only."""
