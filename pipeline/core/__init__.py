"""What all rooms use: errors, atomic files, manifests, records, redaction, progress. It imports no other room."""
