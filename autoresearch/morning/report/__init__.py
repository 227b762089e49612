"""The report of a study: its facts, its charts, the page and its plain text."""
