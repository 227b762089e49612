"""What studies have learned, made into something that a smaller proposer can be taught."""
