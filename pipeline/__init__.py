"""What happens to data and models: ingest, tokenize, train, evaluate. See docs/ and the README's map."""
