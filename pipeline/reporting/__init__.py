"""What an evaluation's folder says, for people: the report page of a run, and two or more runs side by side."""
