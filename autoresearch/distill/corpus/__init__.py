"""What studies have learned, as rows and as nights to teach from."""
