"""Why an interval of a run does not repeat: where it differs first, and what explains it."""
